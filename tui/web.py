"""Serves the terminal UI to a browser of this machine: each page that is opened runs a program of its own.

Whoever reaches the page can do what the terminal UI can, so it listens on 127.0.0.1 alone, and a page is only served to
a browser that was given the address with its token: 127.0.0.1 is open to every user of the machine and to every web page
that a browser of this machine shows. The token becomes a cookie at the first request, and the websocket, which browsers
open across origins, also has to come from our own page.
"""

from __future__ import annotations

import asyncio
import html
import secrets
import shlex
import signal
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server

HOST = "127.0.0.1"
LOCAL_NAMES = frozenset({HOST, "localhost"})
SHUTDOWN_S = 2.0  # a browser that does not let go of its page must not keep the server
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "img-src 'self' data:; connect-src 'self' ws://{host}"
)
# The terminal's script looks for .textual-terminal once the page is loaded, and puts -first-byte and -closed on the body
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="/static/css/xterm.css">
<style>
@font-face {{ font-family: "Roboto Mono"; src: url("/static/fonts/RobotoMono-VariableFont_wght.ttf"); }}
body {{ margin: 0; background: #12151b; color: #d6dae2; font-family: "Roboto Mono", monospace; }}
.word {{ display: none; position: absolute; inset: 0; z-index: 1; align-items: center; justify-content: center; }}
body:not(.-first-byte) .starting, body.-closed .ended {{ display: flex; background: #12151b; }}
a {{ color: #56b4e9; margin-left: 1ch; }}
</style>
</head>
<body>
<div class="word starting">{title} starts ...</div>
<div class="word ended">The terminal UI has ended; runs go on.<a href="/">Open it again</a></div>
<div id="terminal" class="textual-terminal" data-font-size="{font_size}"></div>
<script nonce="{nonce}">document.getElementById("terminal").dataset.sessionWebsocketUrl = `ws://${{location.host}}/ws`;</script>
<script src="/static/js/textual.js"></script>
</body>
</html>
"""


class WebUi(Server):
    """The page, its terminal, and the programs behind it.

    Args:
        command: what each page runs; it must be a program of Textual's.
        port: where it listens.
        token: what a browser has to show.
    """

    def __init__(self, command: Sequence[str], port: int, token: str) -> None:
        super().__init__(f"exec {shlex.join(command)}", host=HOST, port=port, title="mambalab")
        self.token = token
        self._pages: set[asyncio.Task[object]] = set()
        self._cookie = f"mambalab-{port}"  # browsers send the cookies of all ports

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    async def make_app(self) -> web.Application:
        """Return the application with its doors guarded."""
        app = await self._make_app()
        app.middlewares.append(self._guard)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: whoever serves says where."""

    async def on_shutdown(self, app: web.Application) -> None:  # noqa: ARG002 - aiohttp calls it so
        """End the programs behind the open pages; otherwise each page would be waited for."""
        for page in self._pages:
            page.cancel()

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Run a program for as long as its page is open."""
        page = asyncio.current_task()
        assert page is not None
        self._pages.add(page)
        try:
            return await super().handle_websocket(request)
        finally:
            self._pages.discard(page)

    async def handle_index(self, request: web.Request) -> web.Response:
        """Return the page."""
        nonce = secrets.token_urlsafe(12)
        wanted = request.query.get("fontsize", "")
        size = int(wanted) if wanted.isdecimal() and 4 <= int(wanted) <= 96 else 14
        text = PAGE.format(title=html.escape(self.title), font_size=size, nonce=nonce)
        headers = {
            "Content-Security-Policy": POLICY.format(nonce=nonce, host=request.host),
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return web.Response(text=text, content_type="text/html", headers=headers)

    @property
    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if urlsplit(f"//{request.host}").hostname not in LOCAL_NAMES:
                raise web.HTTPForbidden(text="This server answers at 127.0.0.1 and localhost alone.\n")
            if request.path == "/" and self._same(request.query.get("token")):
                rest = {name: value for name, value in request.query.items() if name != "token"}
                answer = web.HTTPFound(request.url.with_query(rest).relative())
                answer.set_cookie(self._cookie, self.token, httponly=True, samesite="Strict")
                return answer
            if not self._same(request.cookies.get(self._cookie)):
                raise web.HTTPForbidden(text="Open the whole address that `mambalab ui --web` has printed.\n")
            if request.path == "/ws" and request.headers.get("Origin") != f"http://{request.host}":
                raise web.HTTPForbidden(text="Only this server's own page may talk to it.\n")
            return await handler(request)

        return guard

    def _same(self, shown: str | None) -> bool:
        return shown is not None and secrets.compare_digest(shown.encode(), self.token.encode())


def serve(command: Sequence[str], port: int, ready: Callable[[str], object]) -> None:
    """Serve until an interrupt or SIGTERM; `ready` is told the address. Port 0 is any that is free.

    Raises:
        OSError: something else listens on the port.
    """
    with socket.create_server((HOST, port)) as listening:
        asyncio.run(_serve(command, listening, ready))


async def _serve(command: Sequence[str], listening: socket.socket, ready: Callable[[str], object]) -> None:
    server = WebUi(command, listening.getsockname()[1], secrets.token_urlsafe(24))
    runner = web.AppRunner(await server.make_app(), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        asked = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        ready(server.address)
        await asked.wait()
    finally:
        await runner.cleanup()
