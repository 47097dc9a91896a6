"""A chart's axes as text: labels beside the plot, and below it ticks, marks and the crosshair's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tui.format import count_label
from tui.plot.scale import Scale, ticks, time_label, time_ticks, value_labels

NUDGES = (0, -1, 1, -2, 2)  # how far a label may stand from its tick to leave a mark its place
Axis = tuple[Callable[[Scale, int], list[float]], Callable[[float], str], Callable[[float], str]]
X_AXES: dict[str, Axis] = {  # ticks, a tick's label, and the crosshair's, which is exact
    "step": (ticks, count_label, lambda value: f"{value:,.0f}"),
    "tokens": (ticks, count_label, lambda value: f"{value:,.0f}"),
    "time": (time_ticks, time_label, time_label),
}
Cell = tuple[str, str]  # a sign and the name of its colour


def y_labels(y: Scale, rows: int) -> dict[int, str]:
    """Return the labels beside a plot of so many rows, by row."""
    values = ticks(y, max(3, rows // 3))
    labels = value_labels(values, log=y.log)
    places = np.clip(np.rint((1 - y.unit(np.array(values))) * (rows - 1)), 0, rows - 1).astype(int)
    return dict(zip(places.tolist(), labels, strict=True))


def x_cells(
    x: Scale, kind: str, columns: int, marks: Sequence[tuple[float, str]], cursor: float | None = None
) -> list[Cell]:
    """Return the line below a plot of so many columns: its corner, then a cell a column.

    Marks keep their places; the crosshair's label goes before them, and the ticks' labels stand where there is room.
    """
    make_ticks, make_label, exact = X_AXES[kind]
    cells: list[Cell] = [("└", "muted"), *[(" ", "muted")] * columns]
    for at, sign in marks:
        if place := _place(x, at, columns):
            cells[place] = (sign, "accent")
    if cursor is not None:
        label = exact(x.value(cursor))
        start = _start(1 + round(cursor * (columns - 1)), label, columns)
        if start >= 1:
            cells[start : start + len(label)] = [(letter, "best") for letter in label]
    for value in make_ticks(x, max(2, columns // 12)):
        label = make_label(value)
        middle = _start(1 + round(float(x.unit(np.array([value]))[0]) * (columns - 1)), label, columns)
        for start in (middle + nudge for nudge in NUDGES):
            last = start + len(label)
            if start >= 1 and last <= columns + 1 and _free(cells, start, last):
                cells[start:last] = [(letter, "muted") for letter in label]
                break
    return cells


def _place(x: Scale, at: float, columns: int) -> int:
    """Return the cell of a place on the axis; 0 where it is not in view."""
    unit = float(x.unit(np.array([at]))[0])
    return 1 + round(unit * (columns - 1)) if 0 <= unit <= 1 else 0


def _start(place: int, label: str, columns: int) -> int:
    return min(max(1, place - len(label) // 2), columns + 1 - len(label))


def _free(cells: Sequence[Cell], start: int, end: int) -> bool:
    """Tell whether a label has room: no letter beside it, and no mark below it."""
    around = cells[max(1, start - 1) : end + 1]
    return all(sign == " " or (color == "accent" and not start <= place < end)
               for place, (sign, color) in enumerate(around, max(1, start - 1)))  # fmt: skip
