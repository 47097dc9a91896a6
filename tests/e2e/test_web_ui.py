"""`mambalab ui --web`: the page, its guard, and the terminal UI behind the websocket, as a browser would have them."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, CookieJar, WSMsgType, WSServerHandshakeError

from storage.home import HomePaths
from storage.sample import fill_store
from workers.jobs.launch import ROOT

DEADLINE_S = 30.0


class Served:
    """A running server and the address that it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.address = process.stdout.readline().strip()
        found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+))/\?token=(\S+)", self.address)
        assert found is not None, self.address
        self.origin, self.port, self.token = found[1], int(found[2]), found[3]

    def programs(self) -> list[psutil.Process]:
        """Return what the server has started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    fill_store(HomePaths(tmp_path / "lab"), runs=24, points=3)
    command = [sys.executable, "-m", "app", "--home", str(tmp_path / "lab"), "ui", "--web", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def browser(served: Served, *, known: bool = True) -> AsyncIterator[ClientSession]:
    """Yield a client that has opened the printed address, or one that has not."""
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        if known:
            async with session.get(served.address) as page:
                assert page.status == 200
        yield session


async def seen(socket: ClientWebSocketResponse, text: str) -> str:
    """Return what the program has written, once a text is in it."""
    written = ""
    deadline = time.monotonic() + DEADLINE_S
    while text not in written:
        message = await socket.receive(timeout=deadline - time.monotonic())
        assert message.type is WSMsgType.BINARY, message
        written += re.sub(r"\x1b\[[0-9;:?]*[A-Za-z]", "", message.data.decode())
    return written


async def test_the_page_is_whole_and_asks_nobody_else(served: Served) -> None:
    async with browser(served) as session, session.get(served.origin, params={"fontsize": "18"}) as page:
        text = await page.text()
        assert page.url.query_string == "fontsize=18"
        assert 'data-font-size="18"' in text
        assert "http" not in text.replace("http://www.w3.org", "")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', text) + re.findall(r'url\("([^"]+)"\)', text):
            async with session.get(served.origin + path) as part:
                assert (part.status, path) == (200, path)


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/ws", "/static/js/textual.js", "/download/x"])
async def test_a_browser_without_the_token_gets_nothing(served: Served, path: str) -> None:
    async with browser(served, known=False) as session, session.get(served.origin + path) as answer:
        assert answer.status == 403
        assert "whole address" in await answer.text()
    assert served.programs() == []


async def test_another_origin_or_name_gets_nothing_even_with_the_cookie(served: Served) -> None:
    async with browser(served) as session:
        for origin in ("http://127.0.0.1:1", "http://evil.example", ""):
            with pytest.raises(WSServerHandshakeError, match="403"):
                await session.ws_connect(f"{served.origin}/ws", headers={"Origin": origin} if origin else {})
        async with session.get(served.address, headers={"Host": f"evil.example:{served.port}"}) as answer:
            assert answer.status == 403
    assert served.programs() == []


async def test_the_websocket_shows_the_terminal_ui_takes_keys_and_ends_it(served: Served) -> None:
    async with browser(served) as session:
        address = f"{served.origin}/ws?width=100&height=30"
        async with session.ws_connect(address, headers={"Origin": served.origin}) as socket:
            first = await seen(socket, "completed")
            assert "mambalab" in first
            await socket.send_json(["stdin", "a"])
            await seen(socket, "Does selection matter")
            await socket.send_json(["resize", {"width": 60, "height": 20}])
            await seen(socket, "80")
            programs = served.programs()
            assert programs
        await gone(programs)


async def test_leaving_the_program_closes_the_page(served: Served) -> None:
    async with browser(served) as session:
        headers = {"Origin": served.origin}
        async with session.ws_connect(f"{served.origin}/ws?width=100&height=30", headers=headers) as socket:
            await seen(socket, "completed")
            await socket.send_json(["stdin", "q"])
            kinds = set()
            while not socket.closed:
                kinds.add((await socket.receive(timeout=DEADLINE_S)).type)
            assert WSMsgType.CLOSE in kinds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_the_server_and_what_it_started(served: Served, number: signal.Signals) -> None:
    async with browser(served) as session:
        headers = {"Origin": served.origin}
        async with session.ws_connect(f"{served.origin}/ws?width=100&height=30", headers=headers) as socket:
            await seen(socket, "completed")
            programs = served.programs()
            served.process.send_signal(number)
            while not socket.closed:
                await socket.receive(timeout=DEADLINE_S)
        assert await asyncio.to_thread(served.process.wait, DEADLINE_S) == 0
        await gone(programs)


async def test_a_server_that_is_killed_leaves_no_program_behind(served: Served) -> None:
    async with browser(served) as session:
        headers = {"Origin": served.origin}
        async with session.ws_connect(f"{served.origin}/ws?width=100&height=30", headers=headers) as socket:
            await seen(socket, "completed")
            programs = served.programs()
            assert programs
            served.process.kill()
            await gone(programs)


async def test_a_port_that_is_taken_is_named(served: Served) -> None:
    command = [sys.executable, "-m", "app", "ui", "--web", "--port", str(served.port)]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert f"port {served.port} of 127.0.0.1: Address already in use" in ended.stderr
    assert "--port names another." in ended.stderr


async def gone(programs: list[psutil.Process]) -> None:
    """Wait until processes have ended."""
    _, left = await asyncio.to_thread(psutil.wait_procs, programs, DEADLINE_S)
    assert left == []


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.main import run

    absent: Any = None
    monkeypatch.setitem(sys.modules, "aiohttp", absent)
    monkeypatch.delitem(sys.modules, "tui.web", raising=False)
    with pytest.raises(SystemExit) as ended:
        run(["ui", "--web"])
    assert ended.value.code == 1
    assert "aiohttp is not installed" in capsys.readouterr().err
