"""The virtual table: what it paints, and that cursor and marks belong to rows and not to places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult

from storage.rows import RunRow
from tests.unit.tui.rows import make_run
from tui.settings import Settings
from tui.theme import THEMES, Palette
from tui.widgets.column import Column, Piece
from tui.widgets.run_table import RunTable, available_columns
from tui.widgets.table import VirtualTable


class TableApp(App[None]):
    """Shows one table."""

    def __init__(self, table: VirtualTable[RunRow]) -> None:
        super().__init__()
        self.table = table
        for theme in THEMES:
            self.register_theme(theme)

    def compose(self) -> ComposeResult:
        """Yield the table."""
        yield self.table


def counting_table() -> tuple[VirtualTable[RunRow], list[str]]:
    """Return a table that notes which rows it paints."""
    painted: list[str] = []

    def paint(run: RunRow, _now: float, _palette: Palette, _width: int) -> Sequence[Piece]:
        painted.append(run.id)
        return ((run.name, ""),)

    columns = [
        Column("name", "name", 12, lambda run: run.name, paint, flexible=True),
        Column("score", "score", 8, lambda run: run.metrics.get("score"), lambda _run, *_: (("x", ""),), descending=True),
    ]  # fmt: skip
    return VirtualTable(columns, lambda run: run.id, now=lambda: 0.0), painted


def rows(count: int) -> list[RunRow]:
    """Return runs with scores that fall."""
    return [make_run(num, metrics={"score": float(count - num)}) for num in range(count)]


async def test_only_the_rows_in_view_are_painted_out_of_10_000() -> None:
    table, painted = counting_table()
    async with TableApp(table).run_test(size=(60, 20)) as pilot:
        table.set_rows(rows(10_000))
        await pilot.pause()
        assert len(set(painted)) == 19
        painted.clear()
        table.move_to(9_999)
        await pilot.pause()
        assert {int(name[3:]) for name in painted} == set(range(9_981, 10_000))
        assert table.scroll_y == 9_981


async def test_a_step_of_the_cursor_repaints_two_rows() -> None:
    table, painted = counting_table()
    async with TableApp(table).run_test(size=(60, 20)) as pilot:
        table.set_rows(rows(100))
        await pilot.pause()
        painted.clear()
        table.move(1)
        await pilot.pause()
        assert set(painted) == {"run0000000", "run0000001"}


async def test_sorting_10_000_rows_keeps_the_cursor_on_its_row_and_puts_what_is_missing_last() -> None:
    table, _ = counting_table()
    async with TableApp(table).run_test(size=(60, 20)) as pilot:
        listed = rows(10_000)
        listed[3] = replace(listed[3], metrics={})
        listed[4] = replace(listed[4], metrics={"score": math.nan})
        table.set_rows(listed)
        table.move_to(17)
        table.sort_by("score")
        await pilot.pause()
        assert [run.num for run in table.rows[:2]] == [0, 1]
        assert table.selected is not None
        assert table.selected.num == 17
        table.sort_by("score")
        assert [run.num for run in table.rows[:2]] == [9_999, 9_998]
        assert {run.num for run in table.rows[-2:]} == {3, 4}
        assert table.selected.num == 17
        assert table.scroll_y <= table.cursor < table.scroll_y + table.page


@given(st.data())
def test_the_cursor_stays_with_its_row_whatever_comes_and_goes(data: st.DataObject) -> None:
    table, _ = counting_table()
    table.set_rows(rows(30))
    for _ in range(4):
        table.cursor = data.draw(st.integers(0, max(0, len(table.rows) - 1)))
        table._key = table.key_of(table.rows[table.cursor]) if table.rows else ""
        before = table.selected
        kept = data.draw(st.lists(st.sampled_from(rows(30)), unique_by=lambda run: run.id))
        table.set_rows(kept)
        if not kept:
            assert table.selected is None
        else:
            assert table.selected is not None
            if before is not None and before.id in {run.id for run in kept}:
                assert table.selected.id == before.id


async def test_marks_belong_to_rows() -> None:
    table, _ = counting_table()
    async with TableApp(table).run_test(size=(60, 20)):
        listed = rows(10)
        table.set_rows(listed)
        table.toggle_mark()
        table.toggle_mark()
        assert table.marks == {"run0000000", "run0000001"}
        table.set_rows(list(reversed(listed)))
        assert [run.num for run in table.marked(table.rows)] == [1, 0]
        table.move_to(9)
        table.toggle_mark()
        assert table.marks == {"run0000001"}


async def test_a_click_on_a_title_sorts_and_on_a_row_selects() -> None:
    table, _ = counting_table()
    async with TableApp(table).run_test(size=(60, 20)) as pilot:
        table.set_rows(rows(50))
        await pilot.pause()
        await pilot.click(table, offset=(3, 5))
        assert table.cursor == 4
        await pilot.click(table, offset=(3, 0))
        assert (table.sort_key, table.descending) == ("name", False)
        assert table.selected is not None
        assert table.selected.num == 4


def line(table: VirtualTable[RunRow], y: int) -> str:
    """Return a painted line's text."""
    return table.render_line(y).text


async def test_every_line_is_exactly_as_wide_as_the_table() -> None:
    settings = Settings(
        columns=["id", "name", "status", "progress", "metric", "eta", "config:model.d_state", "tags", "error"]
    )
    table = RunTable(settings, now=lambda: 2000.0)
    odd = [
        make_run(1, name="漢字漢字漢字漢字漢字漢字漢字漢字", tags=("a", "🙂"), status="failed", error="boom " * 30),
        make_run(2, status="running", step=50, heartbeat_at=1990.0, started_at=1900.0),
        make_run(3, status="queued", step=0, total_steps=None, metrics={}),
    ]
    for width in (30, 80, 200):
        async with TableApp(table).run_test(size=(width, 12)) as pilot:
            table.show_runs(odd)
            await pilot.pause()
            assert {table.render_line(y).cell_length for y in range(12)} == {width - 1}  # the scrollbar has one
        table = RunTable(settings, now=lambda: 2000.0)


async def test_a_run_shows_its_state_and_a_silent_one_says_so() -> None:
    table = RunTable(Settings(columns=["id", "status", "progress", "eta", "metric", "age"]), now=lambda: 2000.0)
    async with TableApp(table).run_test(size=(90, 10)) as pilot:
        table.show_runs(
            [
                make_run(1, status="running", step=25, heartbeat_at=1999.0, started_at=1974.0),
                make_run(2, status="running", step=25, heartbeat_at=1000.0),
                make_run(3, status="completed", metrics={"valid/accuracy": 0.9934}),
            ]
        )
        await pilot.pause()
        assert "▶ running" in line(table, 1)
        assert " 25%" in line(table, 1)
        assert "1m15" in line(table, 1)  # 25 of 100 steps in 25 s
        assert "16m40" in line(table, 1)
        assert "! silent" in line(table, 2)
        assert "✔ completed" in line(table, 3)
        assert "0.9934" in line(table, 3)
        assert "valid/accuracy" in line(table, 0)


async def test_columns_can_be_metrics_and_configuration_and_sort_mixed_values() -> None:
    table = RunTable(Settings(columns=["id", "metrics:valid/accuracy", "config:model.d_state"]), now=lambda: 2000.0)
    mixed = [make_run(1), make_run(2, spec_json='{"model": {"d_state": "auto"}}'), make_run(3, spec_json="{}")]
    async with TableApp(table).run_test(size=(60, 10)) as pilot:
        table.show_runs(mixed)
        await pilot.pause()
        assert ["16" in line(table, 1), "auto" in line(table, 2)] == [True, True]
        table.sort_by("config:model.d_state")
        assert [run.num for run in table.rows] == [1, 2, 3]
        table.sort_by("config:model.d_state")
        assert [run.num for run in table.rows] == [2, 1, 3]


def test_all_that_runs_have_can_be_a_column() -> None:
    from tui.filter import Fields
    from tui.messages import Snapshot

    listed = available_columns(Snapshot(fields=Fields({"valid/loss"}, {"train.lr"}, set())))
    assert ("metrics:valid/loss", "metric") in listed
    assert ("config:train.lr", "config") in listed
    assert len(dict(listed)) == len(listed)
