"""Grouping the runs: sections and their lines, the head's figures, and the keys that begin and end it."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import Input

from storage.home import HomePaths
from tests.unit.tui.conftest import Drive, at, lab, until
from tests.unit.tui.rows import make_run
from tests.unit.tui.test_actions import runs_screen
from tests.unit.tui.test_screens import type_in
from tests.unit.tui.test_table import TableApp, counting_table, line, rows
from tui.filter_terms import Fields, groupings, resolve
from tui.screens.confirm import PromptScreen
from tui.screens.runs import RunsScreen
from tui.settings import Settings
from tui.widgets.order import Sections, grouped
from tui.widgets.run_groups import summarise
from tui.widgets.run_table import RunTable


@given(st.lists(st.integers(0, 5), max_size=40))
def test_every_line_is_one_row_or_one_head(values: list[int]) -> None:
    sections = grouped([(index, value) for index, value in enumerate(values)], lambda row: row[1])
    listed = [row for section in sections.sections for row in section.rows]
    lines = [sections.at(number) for number in range(len(listed) + len(sections))]
    assert [section.title for section, _ in lines if section is not None] == [str(v) for v in sorted(set(values))]
    assert [listed[index] for section, index in lines if section is None] == listed
    assert all(sections.at(sections.line_of(row)) == (None, row) for row in range(len(listed)))
    assert all(before[0] < after[0] for before, after in pairwise(listed) if before[1] == after[1])


def test_numbers_go_before_words_and_nothing_goes_last() -> None:
    sections = grouped([None, "s6", 16, 0.5, True, [1, 2]], lambda row: row)
    assert [section.title for section in sections.sections] == ["0.5", "true", "16", "1, 2", "s6", "none"]


def test_a_section_with_the_same_rows_stays_the_same_object() -> None:
    runs = [make_run(num, seed=num % 2) for num in range(6)]
    before = grouped(runs, lambda run: run.seed)
    after = grouped([*runs, make_run(9, seed=1)], lambda run: run.seed, before)
    assert after.sections[0] is before.sections[0]
    assert after.sections[1] is not before.sections[1]


def test_the_head_counts_every_run_but_only_completed_ones_enter_the_mean() -> None:
    runs = [
        make_run(1, metrics={"valid/accuracy": 0.4}),
        make_run(2, metrics={"valid/accuracy": 0.6}),
        make_run(3, metrics={"valid/accuracy": float("nan")}),
        make_run(4, metrics={"valid/accuracy": 0.9}, status="running"),
        make_run(5, metrics={"valid/loss": 2.5}),
        make_run(6, metrics={}, status="failed"),
    ]
    counts, means = summarise(runs, lambda run: next(iter(run.metrics), ""))
    assert counts == {"completed": 4, "running": 1, "failed": 1}
    assert means == {"valid/accuracy": "0.500 ± 0.141 (2)", "valid/loss": "2.500 (1)"}


def test_every_suggested_name_can_be_read() -> None:
    fields = Fields({"valid/loss"}, {"model.d_state", "train.lr", "task.seed", "seed", "a.width", "b.width"}, {"mixer"})
    names = groupings(fields)
    assert {"model.d_state", "d_state", "mixer", "status"} <= set(names)
    assert "width" not in names
    for name in names:
        resolve(name, 0, fields)


async def test_10_000_grouped_rows_paint_only_what_is_in_view_and_the_cursor_passes_over_heads() -> None:
    table, painted = counting_table()
    async with TableApp(table).run_test(size=(60, 20)) as pilot:
        table.group_of = lambda run: run.num % 4
        table.set_rows(rows(10_000))
        await pilot.pause()
        assert len(set(painted)) == 18
        assert table.virtual_size.height == 10_000 + 4 + 1
        assert line(table, 1).startswith(" 0  2500")
        painted.clear()
        table.move(1)
        await pilot.pause()
        assert set(painted) == {"run0000000", "run0000004"}
        table.move_to(2_500)
        assert table.selected is not None
        assert table.selected.num == 1
        assert line(table, 18).startswith(" 1  2500")
        assert line(table, 19).startswith("▌single-1")
        table.move_to(0)
        assert table.scroll_y == 0
        table.move_to(9_999)
        await pilot.pause()
        assert line(table, 19).startswith("▌single-9999")
        await pilot.click(table, offset=(3, 18))
        assert table.selected is not None
        assert table.selected.num == 9_995


async def test_a_click_on_a_head_selects_nothing() -> None:
    table, _ = counting_table()
    async with TableApp(table).run_test(size=(60, 20)) as pilot:
        table.group_of = lambda run: run.num % 2
        table.set_rows(rows(8))
        await pilot.pause()
        table.move_to(2)
        await pilot.click(table, offset=(3, 6))
        assert table.cursor == 2
        await pilot.click(table, offset=(3, 7))
        assert table.cursor == 4


async def test_a_new_answer_among_10_000_runs_changes_the_head_of_its_group_alone() -> None:
    table = RunTable(Settings(), now=lambda: 2000.0)
    runs = [make_run(num, spec_json=json.dumps({"model": {"d_state": num % 7}})) for num in range(10_000)]
    async with TableApp(table).run_test(size=(100, 30)) as pilot:
        table.group_by("d_state", lambda run: run.config.get("model.d_state"))
        table.show_runs(runs)
        await pilot.pause()
        heads = list(table.sections.sections)
        assert "1429 runs  ✔1429" in line(table, 1)
        runs[7] = make_run(7, status="failed", spec_json=runs[7].spec_json)
        table.show_runs(runs)
        await pilot.pause()
        kept = [new is old for new, old in zip(table.sections.sections, heads, strict=True)]
        assert kept == [False, *[True] * 6]
        assert "✔1428 ✖1" in line(table, 1)
        assert "d_state = 0" in line(table, 1)


async def test_keys_group_by_a_completed_name_and_esc_ends_it(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        screen = runs_screen(pilot)
        table, flat = screen.table, [run.id for run in runs_screen(pilot).table.rows]
        await pilot.press("G", "b")
        await type_in(pilot, "model.d")
        field = at(pilot, PromptScreen).query_one(Input)
        await until(pilot, lambda: field._suggestion, "the field suggests")
        wanted = field._suggestion
        await pilot.press("tab", "enter")
        at(pilot, RunsScreen)
        assert table.group_name == wanted
        assert f"by {wanted}" in screen.note()
        assert table.scroll_y == table.cursor == 0
        values = [run.config.get(wanted) for run in table.rows]
        assert len(table.sections) == len({str(value) for value in values})
        assert sum(before != after for before, after in pairwise(values)) == len(table.sections) - 1
        assert f"{wanted} = {values[0]}" in line(table, 1)
        await pilot.press("j", "space", "escape")
        assert len(table.sections)  # that took the mark off
        await pilot.press("escape")
        assert not len(table.sections)
        assert [run.id for run in table.rows] == flat


async def test_nothing_ends_it_and_an_unknown_name_is_refused_with_the_nearest(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        await pilot.press("b")
        await type_in(pilot, "status")
        await pilot.press("enter")
        statuses = {run.status for run in lab(pilot).snapshot.runs}
        assert {section.title for section in table.sections.sections} == statuses
        await pilot.press("b", *["backspace"] * 6)
        await type_in(pilot, "statsu")
        await pilot.press("enter")
        assert any("status" in note.message for note in lab(pilot)._notifications)
        assert table.group_name == "status"
        await pilot.press("b", *["backspace"] * 6, "enter")
        assert table.group_of is None
        assert isinstance(table.sections, Sections)
        assert not len(table.sections)


async def test_groups_stay_while_the_list_is_filtered_and_sorted(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        await pilot.press("b")
        await type_in(pilot, "status")
        await pilot.press("enter", "slash")
        await type_in(pilot, "status=completed")
        await pilot.press("enter")
        assert [section.title for section in table.sections.sections] == ["completed"]
        column = [column.key for column in table.columns].index("metric")
        await pilot.press(*["l"] * column, "s")
        await pilot.pause()
        values = [run.metrics["valid/accuracy"] for run in table.rows if "valid/accuracy" in run.metrics]
        assert values == sorted(values, reverse=True)
