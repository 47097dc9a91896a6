"""What the terminal UI may meet that is not nice: diverged losses, letters that terminals obey, names that are shared."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from storage.home import HomePaths
from storage.records import AttemptEnd, RecordBatch
from storage.repository import Repository
from storage.sample import NOW
from storage.sample_runs import PROVENANCE, single_run
from storage.status import AttemptStatus
from tests.unit.tui.conftest import Drive, at, lab, until
from tests.unit.tui.test_actions import runs_screen
from tests.unit.tui.test_screens import bar_text
from tui.app import make_app
from tui.screens.ablation import AblationScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.screens.sql import SqlScreen

NAME = "[red]x[/nope] \x1b[31m漢字\nsecond line " + "漢字" * 30
VALUES = (1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300, 1.7e308, 5e-324)
ENDLESS = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t"


@pytest.fixture
def diverged(store: HomePaths) -> str:
    """A failed run with such a name, such values and such an error."""
    with Repository(store) as repository:
        run = replace(single_run(0), name=NAME, trial_label=NAME)
        (run_id,) = repository.submit(ablation=None, runs=[run], provenance=PROVENANCE).run_ids
        number = repository.begin_attempt(run_id, executor="inline", now=NOW)
        assert number == 1
        rows = [(NOW, step, {"train/loss": VALUES[step % len(VALUES)]}) for step in range(1, 60)]
        assert repository.record(run_id, number, RecordBatch(rows, cursor=1, notes=[], heartbeat_at=NOW))
        end = AttemptEnd(
            AttemptStatus.FAILED, now=NOW, reason="error", error="[bold]boom[/] \x1b[31m", traceback="[/x]\n\x1b[1m"
        )
        assert repository.finish_attempt(run_id, number, end)
    return str(run_id)


async def test_a_diverged_run_with_any_name_is_shown_on_every_tab(
    store: HomePaths, diverged: str, drive: Drive
) -> None:
    async with drive(store, size=(160, 50)) as pilot:
        runs_screen(pilot).action_perform("open", diverged)
        await pilot.pause()
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen.curves.charts, "curves")
        for key in ("L", "minus", "plus", "plus", "e", "i", "l", "ctrl+l", "x", "x", "0", "L", "2", "3", "4", "5", "6"):
            await pilot.press(key)
            await pilot.pause()
            shown = [strip.text for strip in pilot.app.screen._compositor.render_strips()]
            assert not any("\x1b" in line for line in shown)
            assert all(strip.cell_length == 160 for strip in pilot.app.screen._compositor.render_strips())


async def test_errors_are_told_as_they_are(store: HomePaths, drive: Drive) -> None:
    def refuse() -> None:
        raise OSError("/tmp/[/x] is full")

    async with drive(store) as pilot:
        lab(pilot).control("[/what]", "mambalab tag [/x]", refuse)
        await until(pilot, lambda: lab(pilot).commands, "an end")
        await pilot.pause()
        (told,) = lab(pilot)._notifications
        assert not told.markup
        assert told.message == "/tmp/[/x] is full"


async def test_the_command_of_a_table_prints_that_table(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("a", "j", "enter")
        screen = at(pilot, AblationScreen)
        assert screen.ablation is not None
        assert screen.table_command() == f"mambalab table {screen.ablation.name}"
        await pilot.press("m", "x")
        assert screen.table_command("--format", "md") == (
            f"mambalab table {screen.ablation.name} --metric valid/loss --rows model.d_state --columns model.inner --format md"
        )


async def test_ablations_that_share_a_name_are_told_apart(store: HomePaths, drive: Drive) -> None:
    """By its name the newest is meant: the command and the files of an older one must not be those of another."""
    with closing(sqlite3.connect(store.database)) as connection:
        connection.execute("UPDATE ablation SET name = 'same'")
        connection.commit()
    async with drive(store) as pilot:
        await pilot.press("a", "j", "enter")
        screen = at(pilot, AblationScreen)
        assert screen.table_command() == f"mambalab table {screen.ablation_id}"
        await pilot.press("e")
        await until(pilot, lambda: lab(pilot).commands, "exported")
        assert (store.root / "exports" / f"same-{screen.ablation_id}-valid-accuracy.md").is_file()


async def test_a_query_is_stopped_by_esc_and_holds_nobody_up(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("Q")
        screen = at(pilot, SqlScreen)
        screen.field.value = ENDLESS
        await pilot.press("enter")
        assert "esc stops it" in bar_text(screen, "#outcome")
        await pilot.press("escape")
        await until(pilot, lambda: lab(pilot).commands, "an end")
        assert bar_text(screen, "#outcome") == " the query was stopped."
        assert at(pilot, SqlScreen) is screen
        await pilot.press("enter")
        stopped = screen.stopped
        assert not stopped.is_set()
        lab(pilot).pop_screen()
        await until(pilot, stopped.is_set, "given up")
        at(pilot, RunsScreen)


async def test_wide_letters_have_room_in_an_answer(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("Q")
        screen = at(pilot, SqlScreen)
        screen.field.value = "SELECT '漢字漢字' AS w, 1764097222.125 AS at"
        await pilot.press("enter")
        await until(pilot, lambda: screen.table.rows, "an answer")
        assert screen.table.columns[0].width == 8
        assert screen.table.columns[1].width == len("1764097222")


async def test_ticks_are_told_apart_without_colours(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("C")
        await pilot.pause()
        shown = [strip.text for strip in pilot.app.screen._compositor.render_strips()]
        assert any("▐X▌ status" in line for line in shown)
        assert any("▐ ▌ seed" in line for line in shown)


def test_commands_name_the_store_where_they_must(store: HomePaths) -> None:
    assert make_app(store).command("cancel", "a") == "mambalab cancel a"
    named = make_app(store, named_home="/my lab")
    assert named.command("cancel", "a") == "mambalab --home '/my lab' cancel a"
