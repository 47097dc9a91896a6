"""An ablation's matrix on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from app.console import data, say, table
from app.formats import counted
from app.grid import BEST, Grid, Layout

if TYPE_CHECKING:
    from storage.matrix import Matrix
    from storage.queries import AblationRow


def title_of(ablation: AblationRow) -> str:
    """Return what heads an ablation's table."""
    return f"{ablation.name}: {ablation.question}" if ablation.question else ablation.name


def print_matrix(matrix: Matrix, form: str, *, title: str) -> None:
    """Print a matrix as `text`, or in one of `storage.export`'s formats."""
    from storage.export import footnote, render_matrix

    if form != "text":
        data(render_matrix(matrix, form, title=title))
        return
    _print_text(matrix, title)
    waiting = sum(
        count for cell in matrix.cells.values() for status, count in cell.counts.items() if status != "completed"
    )
    direction = {"max": ", higher is better", "min": ", lower is better"}.get(matrix.direction, "")
    are = "is not completed and does" if waiting == 1 else "are not completed and do"
    left = f"; {counted(waiting, 'run')} {are} not count" if waiting else ""
    say(f"{matrix.metric}: mean ± std (n) over seeds{direction}{left}")
    if note := footnote(matrix):
        say(note)


def _print_text(matrix: Matrix, title: str) -> None:
    from storage.export import grid

    header, rows = grid(matrix)
    first = len(header) - len(matrix.column_keys)
    best = {
        (number, place): BEST
        for number, row_key in enumerate(matrix.row_keys)
        for place, column_key in enumerate(matrix.column_keys, start=first)
        if (row_key, column_key) in matrix.best
    }
    if sys.stdout.isatty():
        data(title)
    table(Grid(header, rows, Layout(right=header[first:], shrink=header[:first]), best))
