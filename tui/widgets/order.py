"""The order of a table's rows, and the sections that they fall into when they are grouped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from operator import is_not
from typing import Any, Generic

from tui.format import plain
from tui.widgets.column import Column, Row


def ordered(rows: Iterable[Row], column: Column[Row] | None, *, descending: bool) -> list[Row]:
    """Return the rows by a column's values; those without a value, or with NaN, go last."""
    if column is None:
        return list(rows)
    keyed = [(column.value(row), row) for row in rows]
    present = [pair for pair in keyed if pair[0] is not None and pair[0] == pair[0]]
    missing = [row for value, row in keyed if value is None or value != value]
    try:
        present.sort(key=lambda pair: pair[0], reverse=descending)
    except TypeError:  # a configuration's key may hold words in one run and numbers in another
        present.sort(key=lambda pair: str(pair[0]), reverse=descending)
    return [row for _, row in present] + missing


class Order(Generic[Row]):
    """The order of rows, kept: where the rows that are new objects have the values of those before, nothing is sorted.

    Most updates of ten thousand runs are of a few that are at work, and do not change what the list is sorted by.
    """

    def __init__(self) -> None:
        self._by: tuple[object, bool] | None = None
        self._rows: list[Row] = []
        self._places: list[int] = []

    def apply(self, rows: Sequence[Row], column: Column[Row] | None, *, descending: bool) -> list[Row]:
        """Return what `ordered` does."""
        rows = list(rows)
        if column is None:
            return rows
        by = (column, descending)
        if by != self._by or not self._same_values(rows, column):
            places = {id(row): place for place, row in enumerate(rows)}
            found = ordered(rows, column, descending=descending)
            self._places = [places[id(row)] for row in found]
        self._by, self._rows = by, rows
        return [rows[place] for place in self._places]

    def _same_values(self, rows: list[Row], column: Column[Row]) -> bool:
        before = self._rows
        if len(before) != len(rows):
            return False
        changed = compress(range(len(rows)), map(is_not, rows, before))
        return all(column.value(rows[place]) == column.value(before[place]) for place in changed)


@dataclass(frozen=True, slots=True)
class Section(Generic[Row]):
    """Rows that share a value, below a line that says which."""

    title: str
    rows: list[Row]


class Sections(Generic[Row]):
    """Which line of a table is which row, where each section has a line of its own above its rows."""

    def __init__(self, sections: Sequence[Section[Row]] = ()) -> None:
        self.sections = sections
        self._starts = list(accumulate((len(section.rows) for section in sections), initial=0))[: len(sections)]
        self._heads = [start + index for index, start in enumerate(self._starts)]

    def __len__(self) -> int:
        return len(self.sections)

    def line_of(self, row: int) -> int:
        """Return the line of a row, both counted from 0."""
        return row + bisect_right(self._starts, row)

    def at(self, line: int) -> tuple[Section[Row] | None, int]:
        """Return the section whose head a line is, or None; and the row on the line, or the first one below the head."""
        above = bisect_right(self._heads, line)
        if above and self._heads[above - 1] == line:
            return self.sections[above - 1], self._starts[above - 1]
        return None, line - above


def grouped(rows: Iterable[Row], value_of: Callable[[Row], Any], before: Sections[Row] | None = None) -> Sections[Row]:
    """Return the rows by a value, numbers before words; the rows of a section keep their order.

    Sections with the rows that they had `before` stay the same object: what was worked out from it holds.
    """
    found: dict[str, tuple[Any, list[Row]]] = {}
    for row in rows:
        value = value_of(row)
        found.setdefault(plain(value), (value, []))[1].append(row)
    known = {section.title: section for section in before.sections} if before is not None else {}
    sections = []
    for title in sorted(found, key=lambda title: _place(found[title][0], title)):
        old, listed = known.get(title), found[title][1]
        sections.append(old if old is not None and old.rows == listed else Section(title, listed))
    return Sections(sections)


def _place(value: Any, title: str) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, title
    is_number = isinstance(value, int | float) and value == value
    return (0, float(value), title) if is_number else (1, 0.0, title)
