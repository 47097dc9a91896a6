"""Actions by their names after `:`, and what is queued from the terminal UI."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from storage.home import HomePaths
from tests.unit.tui.conftest import Drive, at, lab, until
from tests.unit.tui.test_actions import done, reading, runs_screen, select, told, write
from tests.unit.tui.test_cloning import FakeLauncher, driving
from tui.commanding import complete, parse
from tui.keys import Action, actions
from tui.screens.ablation import AblationScreen
from tui.screens.ablations import AblationsScreen
from tui.screens.command import CommandScreen
from tui.screens.confirm import ConfirmScreen, PromptScreen
from tui.screens.run import RunScreen
from tui.screens.sql import SqlScreen
from tui.widgets.status_bar import TextBar

RUNS = actions("runs")


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("filter status=failed and lr<1", "filter", "status=failed and lr<1"),
        ("group-by d_state", "group_by", "d_state"),
        ("rev", "reverse", ""),
        ("cancel", "cancel", ""),
        ("  sort   age ", "sort", "age"),
    ],
)
def test_a_name_or_its_beginning_calls_an_action(text: str, name: str, argument: str) -> None:
    action, rest = parse(text, RUNS)
    assert (action.name, rest) == (name, argument)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filtre x", "nothing here is called 'filtre'; the nearest is filter"),
        ("co", "'co' may mean "),
        ("cancel now", "cancel takes nothing, got 'now'"),
        ("down", "nothing here is called 'down'"),
        ("", "nothing here is called ''"),
    ],
)
def test_what_calls_nothing_says_so(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text, RUNS)


def test_names_and_what_they_take_are_completed() -> None:
    def choices(action: Action) -> list[str]:
        return {"sort": ["status", "age"], "group_by": ["model.d_state"]}.get(action.name, [])

    assert complete("gr", RUNS, choices) == "group-by "
    assert complete("canc", RUNS, choices) == "cancel"
    assert complete("sort A", RUNS, choices) == "sort age"
    assert complete("group-by mo", RUNS, choices) == "group-by model.d_state"
    assert complete("sort age", RUNS, choices) is None
    assert complete("sort ", RUNS, choices) is None
    assert complete("zz", RUNS, choices) is None


async def call(pilot: Pilot[Any], text: str) -> None:
    """Write a command after `:` and press enter."""
    await pilot.press("colon")
    at(pilot, CommandScreen).query_one(Input).value = text
    await pilot.press("enter")
    await pilot.pause()


async def test_commands_do_what_keys_do(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        await call(pilot, "sort status")
        assert table.sort_key == "status"
        await call(pilot, "filter status=failed")
        await until(pilot, lambda: {run.status for run in table.rows} == {"failed"}, "the filter")
        assert pilot.app.screen.focused is None
        await call(pilot, "group-by status")
        assert table.group_name == "status"
        await call(pilot, "tag good")
        await done(pilot)
        assert lab(pilot).commands[0].command == f"mambalab tag {table.rows[0].id} good"
        await call(pilot, "theme light")
        assert lab(pilot).theme == lab(pilot).settings.theme == "mambalab-light"
        await call(pilot, "mark")
        assert table.marks == {table.rows[0].id}


async def test_a_wrong_argument_is_told_and_changes_nothing(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        for text in ("sort nowhere", "theme blue", "group-by nothing", "open zzz", "filter status="):
            await call(pilot, text)
        said = told(pilot)
        assert "no column is called 'nowhere'" in said[0]
        assert "expected dark or light" in said[1]
        assert "no run has a field 'nothing'" in said[2]
        assert "there is no ablation 'zzz'" in said[3]
        assert "expected a value" in said[4]
        assert len(said) == 5
        await select(pilot, "queued")
        await call(pilot, "priority high")
        assert "a priority is a whole number, got 'high'" in told(pilot)[-1]


async def test_screens_are_opened_by_name(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = runs_screen(pilot).table.rows[0]
        await call(pilot, f"open {run.id[:6]}")
        assert at(pilot, RunScreen).run_id == run.id
        await until(pilot, lambda: at(pilot, RunScreen).curves.charts, "curves")
        await call(pilot, "x-axis time")
        assert at(pilot, RunScreen).curves.view.x_kind == "time"
        await call(pilot, "smooth 0.75")
        assert at(pilot, RunScreen).curves.view.smoothing == lab(pilot).settings.smoothing == 0.75
        await call(pilot, "smooth 2")
        assert "from 0 (none) to below 1" in told(pilot)[-1]
        await pilot.press("L", "escape")
        await call(pilot, f"open {run.id[:6]}")
        view = at(pilot, RunScreen).curves.view
        assert (view.x_kind, view.smoothing, view.log_y) == ("time", 0.75, True)  # as one left it
        name = lab(pilot).snapshot.ablations[0].name
        await call(pilot, f"ablations {name}")
        screen = at(pilot, AblationScreen)
        await call(pilot, "metric loss")
        assert "there is no metric 'loss'" in told(pilot)[-1]  # valid/loss and train/loss
        await call(pilot, "metric valid/loss")
        assert screen.metric == "valid/loss"
        await call(pilot, "sql select count(*) from v_runs")
        await until(pilot, lambda: at(pilot, SqlScreen).table.rows, "the answer")
        assert at(pilot, SqlScreen).table.rows[0][1] == (52,)


async def test_the_line_says_what_it_would_do_and_why_not(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await select(pilot, "completed")
        await pilot.press("colon", *"canc")
        meaning = "".join(text for text, _ in at(pilot, CommandScreen).query_one(TextBar).pieces)
        assert "cancel" in meaning
        assert "only queued and running runs can be cancelled" in meaning
        await pilot.press("tab")
        assert at(pilot, CommandScreen).query_one(Input).value == "cancel"
        await pilot.press("escape")
        at(pilot, type(runs_screen(pilot)))


async def test_a_run_goes_on_from_a_checkpoint_that_is_there(store: HomePaths) -> None:
    launcher = FakeLauncher()
    async with driving(store, launcher) as pilot:
        run = await select(pilot, "completed")
        await pilot.press("R")
        assert "it has no checkpoint on this machine" in told(pilot)[-1]
        for step in (1000, 2000):
            (store.checkpoints(run.id) / f"step-{step:06d}").mkdir(parents=True)
        await pilot.press("R")
        assert at(pilot, PromptScreen).value == "2000 train.steps=4000"
        assert "checkpoints: 1000, 2000" in at(pilot, PromptScreen).hint
        await write(pilot, "1000 train.lr=1e-4")
        await done(pilot)
        words = ["resume", run.id, "--from", "1000", "--set", "train.lr=1e-4", "--detach"]
        assert launcher.submitted == [words]
        assert lab(pilot).commands[0].command == " ".join(["mambalab", *words])
        await call(pilot, "resume 1500")
        assert "there is no checkpoint of step 1500; there are 1000, 2000" in told(pilot)[-1]
        await call(pilot, "resume 1000 faster")
        assert "expected KEY=VALUE" in told(pilot)[-1]
        assert launcher.submitted == [words]
        await select(pilot, "queued")
        await pilot.press("R")
        assert "a run that has not started has no checkpoint" in told(pilot)[-1]


async def test_further_seeds_are_asked_for_confirmed_and_queued(store: HomePaths) -> None:
    launcher = FakeLauncher()
    async with driving(store, launcher) as pilot:
        await pilot.press("a")
        screen = at(pilot, AblationsScreen)
        await until(pilot, lambda: screen.table.selected, "ablations")
        ablation = screen.table.selected
        assert ablation is not None
        await pilot.press("plus")
        await write(pilot, "2")
        assert at(pilot, ConfirmScreen).question == f"Queue 16 runs of {ablation.name}: 8 trials, 2 further seeds each?"
        await pilot.press("n")
        assert launcher.submitted == []
        await pilot.press("enter")
        at(pilot, AblationScreen)
        await call(pilot, "add-seeds 7,8")
        assert at(pilot, ConfirmScreen).command == f"mambalab add-seeds {ablation.id} 7,8"
        await pilot.press("y")
        await done(pilot)
        assert launcher.submitted == [["add-seeds", ablation.id, "7,8"]]
        for text, said in (("1,9", "it has seed 1 already"), ("many", "expected a count"), ("0", "expected a count")):
            await call(pilot, f"add-seeds {text}")
            assert said in told(pilot)[-1]


async def test_without_a_launcher_both_say_why_they_cannot(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await select(pilot, "completed")
        await pilot.press("R", "a", "plus")
        assert told(pilot) == ["resume: nothing here queues runs", "add seeds: nothing here queues runs"]
        with reading(store) as reader:
            assert reader.requests(reader.runs()[0].id) == []
