"""What a column of a table shows and sorts by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tui.theme import Palette

Row = TypeVar("Row")
Piece = tuple[str, str]  # text and its colour; an empty colour is the text's


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A column. `value` sorts (None and NaN go last), `paint` gives the pieces of text that a cell shows.

    `flexible` columns share what is left of the width; the others keep theirs.
    """

    key: str
    title: str
    width: int
    value: Callable[[Row], Any]
    paint: Callable[[Row, float, Palette, int], Sequence[Piece]]
    align: str = "left"
    flexible: bool = False
    descending: bool = False  # what the first press of the sort key does


def share_room(columns: Sequence[Column[Any]], wanted: Mapping[str, int], room: int) -> list[int]:
    """Return the widths of columns: a flexible one has what its texts want and its share of what is left over."""
    least = [
        max(column.width, min(wanted.get(column.key, 0), room * 3 // 10)) if column.flexible else column.width
        for column in columns
    ]  # no text gets more than three tenths of the room for the asking
    spare = max(0, room - sum(least) - len(least))
    flexible = sum(column.flexible for column in columns)
    share = min(60, spare // flexible) if flexible else 0
    return [width + (share if column.flexible else 0) for column, width in zip(columns, least, strict=True)]
