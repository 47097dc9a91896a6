"""A matrix as text: Markdown, LaTeX, CSV and JSON. Standard library only."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from storage.matrix import Cell, CellKey, Key, Matrix, format_cell
from storage.significance import LEVEL

FORMATS = ("md", "csv", "latex", "json")
MARK = "†"
FOOTNOTE = f"{MARK} differs from the baseline, p < {LEVEL:g}: paired sign-flip test over common seeds, Holm-corrected"

_MARKDOWN = re.compile(r"([\\`*_\[\]<>&|~])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "–": "--",
    MARK: r"$\dagger$",
}


def render_matrix(matrix: Matrix, format: str, *, title: str = "") -> str:
    """Return the matrix as text that ends in a newline.

    `md` and `latex` show what `format_cell` does: the best cells bold, those that differ from the baseline marked, and
    below what the mark means. `csv` is one line a cell and `json` one object, both with every digit; `json` has the p
    values too. `title` heads Markdown and captions LaTeX; the two for programs leave it out.

    Raises:
        ValueError: another format.
    """
    if format == "md":
        return _markdown(matrix, title)
    if format == "latex":
        return _latex(matrix, title)
    if format == "csv":
        return _csv(matrix)
    if format == "json":
        return json.dumps(matrix_json(matrix), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    raise ValueError(f"no format {format!r}: expected one of {', '.join(FORMATS)}")


def grid(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the matrix as plain text: the row axes' labels, then a column a column key."""
    header = [*(matrix.row_axes or ("metric",)), *(column_title(matrix, key) for key in matrix.column_keys)]
    rows = []
    for row_key in matrix.row_keys:
        cells = [_cell_text(matrix, (row_key, column_key)) for column_key in matrix.column_keys]
        rows.append([*_row_labels(matrix, row_key), *cells])
    return header, rows


def footnote(matrix: Matrix) -> str:
    """Return what the mark in the matrix means, and how many values are no numbers; empty where neither is to be said."""
    notes = [FOOTNOTE] if any(map(matrix.differs, matrix.cells)) else []
    if nans := sum(cell.nans for cell in matrix.cells.values()):
        notes.append(
            f"{nans} completed {'run' if nans == 1 else 'runs'} ended at NaN and {'is' if nans == 1 else 'are'} in no mean"
        )
    return "; ".join(notes)


def column_title(matrix: Matrix, key: Key) -> str:
    """Return a column's heading: `inner = s6`, or the metric where no axis makes columns."""
    if not matrix.column_axes:
        return matrix.metric
    return ", ".join(f"{axis} = {label}" for axis, label in zip(matrix.column_axes, key, strict=True))


def matrix_json(matrix: Matrix) -> dict[str, Any]:
    """Return the matrix as JSON holds it: NaN as null, infinities as "inf" and "-inf"."""
    return {
        "metric": matrix.metric,
        "direction": matrix.direction or None,
        "rows": list(matrix.row_axes),
        "columns": list(matrix.column_axes),
        "cells": [
            {
                "labels": _labels(matrix, key),
                "mean": _number(cell.mean),
                "std": None if cell.std is None else _number(cell.std),
                "n": cell.n,
                "values": {str(seed): _number(value) for seed, value in cell.values_by_seed.items()},
                "best": key in matrix.best,
                "baseline": key == matrix.baseline,
                "difference": _number(difference) if (difference := matrix.difference(key)) is not None else None,
                "significance": matrix.significance(key),
                "progress": cell.progress,
                "counts": cell.counts,
                "nans": cell.nans,
                "runs": list(cell.run_ids),
            }
            for key, cell in _ordered(matrix)
        ],
    }


def _markdown(matrix: Matrix, title: str) -> str:
    header, body = _marked(matrix, _escape_markdown, "**{}**")
    rulers = ["---"] * max(1, len(matrix.row_axes)) + ["---:"] * len(matrix.column_keys)
    lines = [f"| {' | '.join(row)} |" for row in (header, rulers, *body)]
    if title:
        lines = [f"**{_escape_markdown(title)}**", "", *lines]
    if note := footnote(matrix):
        lines += ["", _escape_markdown(note)]
    return "\n".join(lines) + "\n"


def _latex(matrix: Matrix, title: str) -> str:
    header, body = _marked(matrix, _escape_latex, r"\textbf{{{}}}")
    columns = "l" * max(1, len(matrix.row_axes)) + "r" * len(matrix.column_keys)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if note := footnote(matrix):
        lines += ["", _escape_latex(note)]
    if title:
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(title)}}}",
            *lines,
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _csv(matrix: Matrix) -> str:
    axes = [*matrix.row_axes, *matrix.column_axes]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "metric", "mean", "std", "n", "best", "difference"])
    for key, cell in _ordered(matrix):
        labels = _labels(matrix, key)
        numbers = [_text(cell.mean), _text(cell.std), cell.n, int(key in matrix.best), _text(matrix.difference(key))]
        writer.writerow([*(labels[axis] for axis in axes), matrix.metric, *numbers])
    return text.getvalue()


def _marked(matrix: Matrix, escape: Callable[[str], str], bold: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows, escaped, with the best cells bold."""
    header, rows = grid(matrix)
    first = len(header) - len(matrix.column_keys)
    marked = []
    for row_key, row in zip(matrix.row_keys, rows, strict=True):
        cells = [escape(cell) for cell in row]
        for index, column_key in enumerate(matrix.column_keys, start=first):
            if (row_key, column_key) in matrix.best:
                cells[index] = bold.format(cells[index])
        marked.append(cells)
    return [escape(cell) for cell in header], marked


def _ordered(matrix: Matrix) -> list[tuple[CellKey, Cell]]:
    keys = [(row, column) for row in matrix.row_keys for column in matrix.column_keys]
    return [(key, matrix.cells[key]) for key in keys if key in matrix.cells]


def _labels(matrix: Matrix, key: CellKey) -> dict[str, str]:
    row, column = key
    return dict(zip((*matrix.row_axes, *matrix.column_axes), (*row, *column), strict=True))


def _cell_text(matrix: Matrix, key: CellKey) -> str:
    cell = matrix.cells.get(key)
    if cell is None:
        return ""
    return f"{format_cell(cell)} {MARK}" if matrix.differs(key) else format_cell(cell)


def _row_labels(matrix: Matrix, key: Key) -> Sequence[str]:
    return key if matrix.row_axes else (matrix.metric,)


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.splitlines()))


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.splitlines()))


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _text(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
