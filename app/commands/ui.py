"""`mambalab ui`: the terminal UI."""

from __future__ import annotations

import typer


def ui(context: typer.Context) -> None:
    """Watch runs and ablations live: tables, curves, logs, the matrix."""
    from app.home import home_paths
    from tui.app import run_ui

    run_ui(home_paths(context))
