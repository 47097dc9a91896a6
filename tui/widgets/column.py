"""What a column of a table shows and sorts by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
