"""A table's lines: its header, and a row in its columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual.strip import Strip

from tui.cells import cells, fit
from tui.theme import Palette, style
from tui.widgets.column import Column, Row


def header_line(
    columns: Sequence[Column[Row]],
    widths: Sequence[int],
    palette: Palette,
    *,
    at: int,
    order: tuple[str, str],
    room: int,
) -> Strip:
    """Return the titles; `at` is the column under the cursor, `order` the key that orders and its arrow."""
    segments = [Segment(" ", style(palette.muted, palette.panel))]
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        arrow = order[1] if column.key == order[0] else ""
        title = fit(column.title + arrow, width, column.align)
        ink = palette.accent if index == at else palette.muted
        segments.append(Segment(title, style(ink, palette.panel, bold=True)))
        segments.append(Segment(" ", style(ink, palette.panel)))
    spare = max(0, room - (sum(widths) + len(widths) + 1))
    return Strip([*segments, Segment(" " * spare, style(palette.muted, palette.panel))])


def row_line(
    columns: Sequence[Column[Row]],
    widths: Sequence[int],
    row: Row,
    palette: Palette,
    *,
    now: float,
    here: bool,
    marked: bool,
) -> Strip:
    """Return a row; pieces next to each other in one ink become one segment, which is what painting costs."""
    background = palette.cursor if here else palette.background
    first = "●" if marked else ("▌" if here else " ")
    texts, inks = [first], [palette.best if marked else palette.accent]
    for column, width in zip(columns, widths, strict=True):
        pieces = column.paint(row, now, palette, width)
        used = sum(cells(text) for text, _ in pieces)
        if column.align == "right" and used < width:
            texts[-1] += " " * (width - used)  # blanks have no colour of their own: they join the text before them
        left = width
        for text, color in pieces:
            cut = text if used <= width else fit(text, min(cells(text), left))
            left -= cells(cut)
            ink = color or palette.text
            if ink == inks[-1]:
                texts[-1] += cut
            else:
                texts.append(cut)
                inks.append(ink)
        texts[-1] += " " * (1 + (width - used if column.align != "right" and used < width else 0))
    return Strip([Segment(text, style(ink, background)) for text, ink in zip(texts, inks, strict=True)])
