"""The store that a command works on."""

from __future__ import annotations

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
