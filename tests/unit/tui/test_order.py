"""The order that a table keeps: always what sorting anew would give, without sorting where nothing that counts changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from tui.widgets.column import Column
from tui.widgets.order import Order, ordered


@dataclass(frozen=True)
class Item:
    """A row: its key, what is sorted by, and what is not."""

    key: int
    value: float | None
    other: int = 0


COLUMN: Column[Item] = Column("value", "value", 5, lambda item: item.value, lambda *_: ())
VALUES = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, math.nan]))


@given(
    st.lists(VALUES, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.one_of(st.just("other"), VALUES), st.booleans()), max_size=12),
)
def test_it_is_what_sorting_anew_gives(values: list[float | None], changes: list[tuple[int, object, bool]]) -> None:
    order: Order[Item] = Order()
    rows = [Item(key, value) for key, value in enumerate(values)]
    for place, change, descending in [(0, "other", True), *changes]:
        if place < len(rows):
            old = rows[place]
            rows[place] = (
                replace(old, other=old.other + 1) if change == "other" else Item(old.key, change)  # type: ignore[arg-type]
            )
        elif change != "other":
            rows.append(Item(len(rows), None))
        found = order.apply(rows, COLUMN, descending=descending)
        assert [id(row) for row in found] == [id(row) for row in ordered(rows, COLUMN, descending=descending)]


def test_nothing_is_sorted_where_other_things_change() -> None:
    asked: list[int] = []

    def value(item: Item) -> float | None:
        asked.append(item.key)
        return item.value

    column = replace(COLUMN, value=value)
    order: Order[Item] = Order()
    rows = [Item(key, float(-key)) for key in range(100)]
    order.apply(rows, column, descending=False)
    asked.clear()
    rows[7] = replace(rows[7], other=1)
    found = order.apply(rows, column, descending=False)
    assert found[-8] is rows[7]
    assert asked == [7, 7]
