"""Tables of a terminal: columns that fit its width, the ones that matter whole.

Plain text and a few colours; no rich, whose import would cost `mambalab ls` half of its time.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from storage.encoding import visible

GAP = 2
LEAST = 12  # characters that a column keeps when it is cut
HEADER, BEST, GOOD, BAD, CAUTION = "1", "1;32", "32", "1;31", "33"  # ANSI's numbers: bold, green, red, yellow
STATUS_STYLES = {"queued": "2", "running": "36", "completed": GOOD, "failed": BAD, "cancelled": CAUTION}


def one_line(text: str) -> str:
    """Return a cell's text on one line, without what a terminal would obey instead of showing."""
    return visible(" ".join(text.split()))


def cells_of(text: str) -> int:
    """Return how many cells of a terminal a text takes: wide letters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, size: int) -> str:
    """Return a text cut to at most `size` cells, ending in … where something is left out."""
    if cells_of(text) <= size:
        return text
    kept, left = [], size - 1
    for letter in text:
        left -= _cells(letter)
        if left < 0:
            break
        kept.append(letter)
    return "".join(kept) + "…"


@dataclass(frozen=True, slots=True)
class Layout:
    """What becomes of columns where the terminal is narrow.

    Attributes:
        right: columns that are aligned to the right.
        drop: columns that are left out, the first of them first.
        shrink: columns that are cut.
        wrap: the column that takes several lines instead; it is the last one.
    """

    right: Collection[str] = ()
    drop: Sequence[str] = ()
    shrink: Collection[str] = ()
    wrap: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """Header and rows. A cell that is a run's status has its colour; `styles` gives others by (row, column)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    layout: Layout = Layout()
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def render(self, width: int, *, colours: bool) -> str:
        """Return the table as lines of at most `width` characters, where the layout lets it."""
        widths = self._widths(width)
        lines = self._lines(self.columns, widths, -1, colours)
        lines.append("  ".join("─" * size for size in widths.values()))
        for place, row in enumerate(self.rows):
            lines += self._lines(row, widths, place, colours)
        return "\n".join(lines)

    def _widths(self, width: int) -> dict[int, int]:
        """Return the width of each column that is shown, by its place."""
        cells = zip(self.columns, *self.rows, strict=True)
        widths = {place: max(cells_of(one_line(cell)) for cell in column) for place, column in enumerate(cells)}
        layout, names = self.layout, self.columns
        soft = {place for place, name in enumerate(names) if name in layout.shrink or name == layout.wrap}
        for name in layout.drop:
            least = sum(min(size, LEAST) if place in soft else size for place, size in widths.items())
            if least + GAP * (len(widths) - 1) <= width:
                break
            place = names.index(name)
            soft.discard(place)
            del widths[place]
        excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
        while excess > 0 and any(widths[place] > LEAST for place in soft):
            widest = max(soft, key=lambda place: widths[place])
            widths[widest] -= 1
            excess -= 1
        return widths

    def _lines(self, row: Sequence[str], widths: Mapping[int, int], number: int, colours: bool) -> list[str]:
        pieces = {place: self._pieces(place, row[place], size) for place, size in widths.items()}
        lines = []
        for height in range(max(map(len, pieces.values()))):
            cells = []
            for place, size in widths.items():
                text = pieces[place][height] if height < len(pieces[place]) else ""
                cells.append(self._padded(place, text, size, self._style(number, place, row) if colours else ""))
            lines.append((" " * GAP).join(cells).rstrip())
        return lines

    def _style(self, number: int, place: int, row: Sequence[str]) -> str:
        if number < 0:
            return HEADER
        return self.styles.get((number, place)) or STATUS_STYLES.get(row[place], "")

    def _pieces(self, place: int, text: str, size: int) -> list[str]:
        text = one_line(text)
        if cells_of(text) > size and self.columns[place] == self.layout.wrap:
            return textwrap.wrap(text, size)
        return [cut(text, size)]

    def _padded(self, place: int, text: str, size: int, style: str) -> str:
        padding = " " * (size - cells_of(text))
        shown = f"\x1b[{style}m{text}\x1b[0m" if style and text else text
        return padding + shown if self.columns[place] in self.layout.right else shown + padding
