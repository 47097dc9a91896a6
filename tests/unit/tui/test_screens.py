"""Going through the screens by keys: what opens, what is shown, and that esc leaves exactly one layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.command import Command, CommandList, Hit
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import SelectionList, Static

from storage.home import HomePaths
from storage.records import RecordBatch
from storage.repository import Repository
from tests.unit.tui.conftest import Drive, at, lab, until
from tests.unit.tui.test_actions import runs_screen
from tui.app import make_app
from tui.messages import StoreState
from tui.screens.ablation import AblationScreen
from tui.screens.ablations import AblationsScreen
from tui.screens.columns import ColumnsScreen
from tui.screens.compare import CompareScreen
from tui.screens.help import HelpScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.screens.sql import SqlScreen
from tui.screens.too_small import TooSmallScreen
from tui.widgets.status_bar import TextBar
from tui.widgets.text_view import TextView

KEYS = {" ": "space", "=": "equals_sign", ">": "greater_than_sign", "<": "less_than_sign", "_": "underscore"}


async def type_in(pilot: Pilot[Any], text: str) -> None:
    """Press the keys of a text."""
    await pilot.press(*(KEYS.get(sign, sign) for sign in text))
    await pilot.pause()


def text_of(pilot: Pilot[Any], selector: str) -> str:
    """Return what a text pane shows."""
    view = pilot.app.screen.query_one(selector, TextView)
    return "\n".join("".join(text for text, _ in line) for line in view._lines)


def bar_text(screen: Screen[Any], selector: str) -> str:
    """Return what a line of text shows."""
    return "".join(text for text, _ in screen.query_one(selector, TextBar).pieces)


async def test_the_list_moves_by_vim_keys_and_arrows(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        await pilot.press("j", "down", "k")
        assert table.cursor == 1
        await pilot.press("G")
        assert table.cursor == len(table.rows) - 1
        await pilot.press("g")
        assert table.cursor == 0
        await pilot.press("ctrl+d")
        assert table.cursor == table.page - 1
        await pilot.press("ctrl+u", "l", "right", "h")
        assert (table.cursor, table.column) == (0, 1)


async def test_a_filter_is_counted_as_one_types_and_left_in_two_steps(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        screen = runs_screen(pilot)
        total = len(screen.table.rows)
        await pilot.press("slash")
        await type_in(pilot, "status=queued")
        waiting = sum(run.status == "queued" for run in lab(pilot).snapshot.runs)
        assert len(screen.table.rows) == waiting
        assert f"{waiting} of {total}" in screen.note()
        await pilot.press("enter")
        assert screen.focused is None
        await pilot.press("j")
        assert screen.table.cursor == 1
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.table.rows) == total, "the filter is off")
        at(pilot, RunsScreen)


async def test_a_mistake_in_a_filter_keeps_the_list_and_points_at_its_place(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        screen = runs_screen(pilot)
        await pilot.press("slash")
        await type_in(pilot, "d_sate>8")
        assert screen.bar.error is not None
        assert screen.bar.error.position == 0
        assert len(screen.table.rows) == len(lab(pilot).snapshot.runs)
        await pilot.press("escape")
        assert screen.focused is None
        await pilot.press("escape")
        assert not screen.bar.has_class("open")


async def test_sorting_follows_the_column_under_the_cursor_and_is_remembered(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        column = [column.key for column in table.columns].index("metric")
        await pilot.press(*["l"] * column, "s")
        values = [run.metrics["valid/accuracy"] for run in table.rows if run.metrics]
        assert values == sorted(values, reverse=True)
        assert not table.rows[-1].metrics
        await pilot.press("S")
        assert [run.metrics["valid/accuracy"] for run in table.rows if run.metrics] == values[
            ::-1
        ] or table.descending is False
    async with drive(store) as pilot:
        assert runs_screen(pilot).table.sort_key == "metric"


async def test_columns_are_chosen_moved_resized_and_remembered(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        await pilot.press("C")
        listed = at(pilot, ColumnsScreen).query_one(SelectionList)
        listed.deselect("tags")
        listed.select("config:model.d_state")
        await pilot.press("enter")
        await pilot.pause()
        assert "config:model.d_state" in [column.key for column in table.columns]
        assert "tags" not in [column.key for column in table.columns]
        await pilot.press("greater_than_sign", "plus", "plus")
        assert [column.key for column in table.columns][:2] == ["name", "id"]
        assert table.columns[1].width == 9
        await pilot.press("minus")
        await pilot.press("C", "escape")
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        assert [column.key for column in table.columns][:2] == ["name", "id"]
        assert table.columns[1].width == 7


async def test_a_run_opens_in_tabs_and_one_goes_to_the_next(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        log = store.attempt(lab(pilot).snapshot.runs[0].id, 1).log
        log.parent.mkdir(parents=True)
        log.write_text("hello from the worker\n")
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen.curves.charts, "curves")
        assert screen.curves.charts[0].title == "valid/accuracy"
        await pilot.press("2")
        assert "d_state" in text_of(pilot, "#config")
        await pilot.press("3")
        await until(pilot, lambda: list(screen.query_one("#log").lines) == ["hello from the worker"], "the log")  # type: ignore[attr-defined]
        await pilot.press("4")
        await until(pilot, lambda: "completed" in text_of(pilot, "#events"), "events")
        await pilot.press("5")
        assert "41088" in text_of(pilot, "#origin")
        first = screen.run_id
        await pilot.press("right_square_bracket")
        await until(
            pilot, lambda: screen.detail is not None and screen.detail.run.id == screen.run_id != first, "the next"
        )
        await pilot.press("left_square_bracket")
        assert screen.run_id == first
        await pilot.press("escape")
        at(pilot, RunsScreen)


async def test_what_a_run_uses_of_its_machine_has_a_tab_of_its_own(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = next(run for run in lab(pilot).snapshot.runs if run.status == "running")
        runs_screen(pilot).table.select(run.id)
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen.curves.charts and screen.detail, "curves")
        assert not [chart for chart in screen.curves.charts if chart.title.startswith("system/")]
        await pilot.press("6")
        assert [chart.title for chart in screen.curves.charts] == ["system/peak_memory_mb"]
        assert bar_text(screen, "#machine") == " nothing noted of the machine yet"
        assert screen.curves.view.x_kind == "time"
        with Repository(store) as repository:
            facts = {"cpus": 8, "memory_mb": 2048, "gpu": "none: this run was given no GPU"}
            values = {"system/cpu_percent": 99.0, "system/gpu0_percent": 50.0}
            batch = RecordBatch([(1.0, run.step, values)], cursor=10**9, notes=[(1.0, "system", facts)])
            assert repository.record(run.id, run.attempt, batch)
        await until(pilot, lambda: len(screen.curves.charts) == 3, "the new charts")
        titles = ["system/gpu0_percent", "system/cpu_percent", "system/peak_memory_mb"]
        assert [chart.title for chart in screen.curves.charts] == titles
        await until(pilot, lambda: "8 CPUs, 2.0" in bar_text(screen, "#machine"), "the note")
        assert "GPU none: this run was given no GPU" in bar_text(screen, "#machine")
        await pilot.press("L", "enter")
        views = [(screen.curves.view.log_y, screen.curves.alone)]
        await pilot.press("1")
        views.append((screen.curves.view.log_y, screen.curves.alone))
        assert views == [(True, True), (False, False)]
        await pilot.press("6", "escape", "escape")
        at(pilot, RunsScreen)


async def test_esc_leaves_the_crosshair_the_zoom_the_enlargement_and_then_the_run(
    store: HomePaths, drive: Drive
) -> None:
    async with drive(store) as pilot:
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen.curves.charts, "curves")
        whole = screen.curves.x
        await pilot.press("enter", "plus", "i", "right", "L", "e")
        view = screen.curves.view
        layers = [screen.curves.alone]
        assert layers == [True]
        assert view.x_range is not None
        assert view.x_range[1] - view.x_range[0] < whole.high - whole.low
        assert view.cursor is not None
        assert view.cursor > 0.5
        assert (view.log_y, view.smoothing) == (True, 0.6)
        await pilot.press("escape")
        assert screen.curves.view.cursor is None
        await pilot.press("escape")
        assert screen.curves.view.x_range is None
        await pilot.press("escape")
        layers.append(screen.curves.alone)
        assert layers == [True, False]
        await pilot.press("escape")
        at(pilot, RunsScreen)


async def test_curves_can_be_drawn_over_steps_tokens_and_time(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen.curves.charts, "curves")
        ends = {}
        for _ in range(3):
            line = screen.curves.charts[0].lines[0]
            ends[screen.curves.view.x_kind] = line.points.x[-1]
            await pilot.press("x")
        assert screen.curves.view.x_kind == "step"
        assert ends == {"step": 2000, "tokens": 2000 * 4096, "time": pytest.approx(2000 * 11 / 12 / 50, rel=0.01)}
        await pilot.press("tab")
        assert screen.curves.focus_index == 1
        await pilot.press("shift+tab", "shift+tab")
        assert screen.curves.focus_index == len(screen.curves.charts) - 1
        await pilot.press("ctrl+l", "plus", "minus", "0", "home", "h")


async def test_an_ablation_shows_its_cells_their_seeds_and_runs(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("a")
        at(pilot, AblationsScreen)
        await pilot.press("j", "enter")
        screen = at(pilot, AblationScreen)
        matrix = screen.view.matrix
        assert matrix is not None
        assert (len(matrix.row_keys), len(matrix.column_keys)) == (2, 4)
        await pilot.press("right", "down")
        assert screen.view.key == (("s6",), ("8",))
        assert {run.trial_label for run in screen.seeds.rows} == {"s6 · 8"}
        await pilot.press("enter", "j", "enter")
        run_screen = at(pilot, RunScreen)
        assert run_screen.run_id == screen.seeds.rows[1].id
        await pilot.press("escape")
        assert pilot.app.screen is screen
        await pilot.press("escape")
        assert not screen.in_seeds
        await pilot.press("escape")
        at(pilot, AblationsScreen)
        await pilot.press("escape")
        at(pilot, RunsScreen)


async def test_an_ablation_changes_metric_layout_and_shows_effects(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("o")
        at(pilot, RunsScreen)  # the newest run stands alone
        await pilot.press("a", "j", "enter")
        screen = at(pilot, AblationScreen)
        await pilot.press("m")
        assert screen.view.matrix is not None
        assert (screen.view.matrix.metric, screen.view.matrix.direction) == ("valid/loss", "min")
        layouts = []
        for _ in range(3):
            await pilot.press("x")
            layouts.append(screen.view.matrix.column_axes)
        assert layouts == [("model.inner",), (), ("model.d_state",)]
        await pilot.press("f")
        shown = text_of(pilot, "#effects")
        assert "model.inner" in shown
        assert "(12)" in shown or "(11)" in shown or "(10)" in shown
        await pilot.press("escape")
        assert not screen.show_effects
        assert pilot.app.screen is screen


async def test_an_ablation_is_exported_in_three_formats_and_says_where(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("a", "j", "enter", "e")
        await until(pilot, lambda: lab(pilot).commands, "exported")
        folder = store.root / "exports"
        assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".md", ".tex"]
        assert str(folder) in lab(pilot).commands[0].what
        markdown = next(folder.glob("*.md")).read_text(encoding="utf-8")
        assert " ± " in markdown
        assert lab(pilot).commands[0].command.startswith("mambalab table ")


async def test_marked_runs_are_compared_in_groups_with_what_differs(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        screen = runs_screen(pilot)
        await pilot.press("slash")
        await type_in(pilot, "d_state=16 status=completed ablation=selective*")
        count = len(screen.table.rows)
        await pilot.press("enter", *["space"] * count)
        assert len(screen.table.marks) == count > 3
        await pilot.press("c")
        compare = at(pilot, CompareScreen)
        await until(pilot, lambda: compare.curves.charts and lab(pilot).parameters, "curves")
        assert list(compare.groups) == ["s4d · 16", "s6 · 16"]
        assert sum(len(runs) for runs in compare.groups.values()) == count
        assert [shade.label for shade in compare.curves.charts[0].shades] == ["s4d · 16", "s6 · 16"]
        await pilot.press("m")
        assert len(compare.curves.charts[0].lines) == count
        await pilot.press("m")
        compare.action_perform("group_by", "model.d_state")
        assert list(compare.groups) == ["model.d_state = 16"]
        assert compare.note() == "by model.d_state"
        assert [shade.label for shade in compare.curves.charts[0].shades] == ["model.d_state = 16"]
        assert "(2 values)" in text_of(pilot, "#differences")
        compare.action_perform("group_by", "nothing")
        assert list(compare.groups) == ["model.d_state = 16"]
        await pilot.press("b", *["backspace"] * len("model.d_state"), "enter")
        await until(pilot, lambda: list(compare.groups) == ["s4d · 16", "s6 · 16"], "by trial again")
        await pilot.press("d")
        assert "model.inner" in text_of(pilot, "#differences")
        assert "train.lr" not in text_of(pilot, "#differences")
        await pilot.press("escape")
        assert at(pilot, CompareScreen) is compare
        await pilot.press("escape")
        assert at(pilot, RunsScreen) is screen
        await pilot.press("escape", "escape")
        assert screen.table.marks == set()


async def test_sql_answers_refuses_to_write_and_remembers(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("Q")
        screen = at(pilot, SqlScreen)
        screen.field.value = "SELECT status, COUNT(*) AS n FROM v_runs GROUP BY status"
        await pilot.press("enter")
        await until(pilot, lambda: screen.table.rows, "an answer")
        assert [column.title for column in screen.table.columns] == ["status", "n"]
        answer = {row[1][0]: row[1][1] for row in screen.table.rows}
        assert answer["queued"] == sum(run.status == "queued" for run in lab(pilot).snapshot.runs)
        screen.field.value = "DELETE FROM run"
        await pilot.press("enter")
        await until(pilot, lambda: any(entry.error for entry in lab(pilot).commands), "a refusal")
        assert "only reads" in lab(pilot).commands[-1].error
        await pilot.press("up", "up")
        assert screen.field.value.startswith("SELECT status")
        await pilot.press("escape")
        assert screen.focused is None
        await pilot.press("l", "s")
        assert [row[1][1] for row in screen.table.rows] == sorted(answer.values())
        await pilot.press("escape")
        at(pilot, RunsScreen)
        assert len(lab(pilot).settings.queries) == 2


def palette_offers(pilot: Pilot[Any], text: str) -> bool:
    """Tell whether `enter` in the palette takes what was searched for."""
    commands = pilot.app.screen.query_one(CommandList)
    if commands.highlighted is None:
        return False
    chosen = commands.get_option_at_index(commands.highlighted)
    return isinstance(chosen, Command) and isinstance(chosen.hit, Hit) and text in (chosen.hit.text or "").lower()


async def test_help_theme_and_palette(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("question_mark")
        at(pilot, HelpScreen)
        await pilot.press("j", "G", "g", "ctrl+d", "escape")
        at(pilot, RunsScreen)
        await pilot.press("T")
        assert pilot.app.theme == "mambalab-light"
        await pilot.press("ctrl+p")
        await pilot.pause()
        await type_in(pilot, "ablations")
        await until(pilot, lambda: palette_offers(pilot, "ablations"), "the palette found it")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AblationsScreen), "the palette opened it")
    async with drive(store) as pilot:
        assert pilot.app.theme == "mambalab-light"


async def test_q_leaves_from_any_screen(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("a", "enter", "q")
        await pilot.pause()
        assert pilot.app.return_code == 0


async def test_a_click_on_the_footer_does_what_the_key_does(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.click("KeyBar", offset=(3, 0))
        at(pilot, HelpScreen)


async def test_esc_on_the_first_screen_stays_and_says_how_to_leave(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("escape")
        at(pilot, RunsScreen)
        assert any("q quits" in note.message for note in lab(pilot)._notifications)


async def test_without_a_store_the_command_to_make_one_is_shown(tmp_path: Path, drive: Drive) -> None:
    async with drive(HomePaths(tmp_path / "none")) as pilot:
        assert lab(pilot).snapshot.state is StoreState.MISSING
        assert "mambalab submit demo" in text_of(pilot, "#empty")
        await pilot.press("enter", "o", "X", "c", "j", "s", "space", "a")
        at(pilot, AblationsScreen)
        await pilot.press("enter", "s", "y", "escape")
        at(pilot, RunsScreen)


async def test_a_run_that_leaves_the_store_is_said_to_be_gone(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        screen = RunScreen("gone000000")
        await lab(pilot).push_screen(screen)
        await pilot.pause()
        await pilot.press("X", "2", "3", "4", "5", "1", "escape")
        at(pilot, RunsScreen)


async def test_only_the_screen_in_front_says_what_is_read(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen.curves.charts, "curves")
        runs_screen(pilot)._show_selected()  # what was put off until after a paint may come late
        assert lab(pilot).source._interest.curves == (screen.run_id,)
        await pilot.press("escape")
        await until(pilot, lambda: lab(pilot).source._interest.sparks, "the list's curves")


@pytest.mark.parametrize("size", [(79, 40), (120, 23), (10, 4)])
async def test_a_terminal_too_small_says_so_until_it_is_resized(
    store: HomePaths, drive: Drive, size: tuple[int, int]
) -> None:
    async with drive(store) as pilot:
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen))
        await pilot.resize_terminal(*size)
        words = str(at(pilot, TooSmallScreen).query_one(Static).content)
        assert "Resize to 80x24" in words
        assert f"this is {size[0]}x{size[1]}" in words
        await pilot.press("escape", "j", "X")
        at(pilot, TooSmallScreen)
        await pilot.resize_terminal(80, 24)
        at(pilot, RunScreen)
        await pilot.resize_terminal(*size)
        await pilot.press("q")
    assert pilot.app.return_code == 0


async def test_a_terminal_too_small_from_the_start_shows_the_runs_once_it_is_resized(store: HomePaths) -> None:
    app = make_app(store)
    async with app.run_test(size=(60, 20)) as pilot:
        at(pilot, TooSmallScreen)
        await until(pilot, lambda: app.snapshot.complete, "the store is read behind it")
        await pilot.resize_terminal(100, 30)
        assert len(at(pilot, RunsScreen).table.rows) == len(app.snapshot.runs)
