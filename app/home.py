"""The store that a command works on."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from storage.home import HomePaths
    from storage.queries import Reader


def home_paths(context: typer.Context) -> HomePaths:
    """Return the paths of the store that --home, $MAMBALAB_HOME or the current folder names."""
    from storage.home import HomePaths, find_home

    given = context.obj
    return HomePaths(given if isinstance(given, Path) else find_home())


def reader(context: typer.Context) -> Reader:
    """Open the store read-only. Raises StoreMissing where there is none."""
    from storage.queries import Reader

    return Reader(home_paths(context))


def command(context: typer.Context, words: str) -> str:
    """Return a command line that works on the same store, to be pasted into this shell."""
    home = named_home(context)
    return f"mambalab --home {shlex.quote(home)} {words}" if home else f"mambalab {words}"


def named_home(context: typer.Context) -> str:
    """Return what --home was given; nothing where a command of this shell means the same store without it."""
    given = context.obj
    return "" if not isinstance(given, Path) or os.environ.get("MAMBALAB_HOME") == str(given) else str(given)


def command_line() -> str:
    """Return what the user typed, for the record."""
    return shlex.join(["mambalab", *sys.argv[1:]])
