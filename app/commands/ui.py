"""`mambalab ui`: the terminal UI."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.home import HomePaths

PORT = 8642
WAKE = """
import sys
from app.waking import wake
from storage.home import HomePaths
try:
    wake(HomePaths(sys.argv[1]), sys.argv[2])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def ui(
    context: typer.Context,
    *,
    web: Annotated[bool, typer.Option("--web", help="Serve it to a browser of this machine instead.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where --web listens; 0 is any that is free.")] = PORT,
) -> None:
    """Watch runs and ablations live: tables, curves, logs, the matrix."""
    if web:
        _serve(context, port)
        return
    from app.cloning import Launcher
    from app.home import home_paths, named_home
    from tui.app import run_ui

    paths = home_paths(context)
    run_ui(
        paths,
        wake_controller=lambda kind: wake_controller(paths, kind),
        launcher=Launcher(paths),
        named_home=named_home(context),
    )


def _serve(context: typer.Context, port: int) -> None:
    from app.console import data, flush, say
    from app.errors import CommandError
    from app.home import home_paths

    try:
        from tui.web import serve
    except ModuleNotFoundError as error:
        raise CommandError(
            f"ui --web: {error.name} is not installed. `python -m pip install -e '.[web]'` in mambalab's checkout adds it."
        ) from error

    def ready(address: str) -> None:
        data(address)
        flush()
        say("the terminal UI, in a browser of this machine; ctrl+c ends it, runs go on")

    command = [sys.executable, "-m", "app", "--home", str(home_paths(context).root), "ui"]
    try:
        serve(command, port, ready)
    except OSError as error:
        raise CommandError(
            f"ui --web: port {port} of 127.0.0.1: {error.strerror or error}. --port names another."
        ) from error


def wake_controller(paths: HomePaths, kind: str) -> None:
    """Have a request acted on, by a process of its own: what that loads and waits for must not stop the screen.

    Raises:
        OSError: no controller could be started; the message says why.
    """
    command = [sys.executable, "-c", WAKE, str(paths.root), kind]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(ended.stderr.strip() or f"ended with {ended.returncode}")
