"""`mambalab ui`: the terminal UI."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from storage.home import HomePaths

WAKE = """
import sys
from app.waking import wake
from storage.home import HomePaths
try:
    wake(HomePaths(sys.argv[1]), sys.argv[2])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def ui(context: typer.Context) -> None:
    """Watch runs and ablations live: tables, curves, logs, the matrix."""
    from app.cloning import Launcher
    from app.home import home_paths
    from tui.app import run_ui

    paths = home_paths(context)
    run_ui(paths, wake_controller=lambda kind: wake_controller(paths, kind), launcher=Launcher(paths))


def wake_controller(paths: HomePaths, kind: str) -> None:
    """Have a request acted on, by a process of its own: what that loads and waits for must not stop the screen.

    Raises:
        OSError: no controller could be started; the message says why.
    """
    command = [sys.executable, "-c", WAKE, str(paths.root), kind]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(ended.stderr.strip() or f"ended with {ended.returncode}")
