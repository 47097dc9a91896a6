"""Every action on runs, by its key, against a real store: what it asks, what it writes, what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from textual.pilot import Pilot

from storage import control
from storage.errors import StoreLocked
from storage.home import HomePaths
from storage.queries import Reader, RequestRow, RunRow
from tests.unit.tui.conftest import Drive, at, lab, until
from tui.app import make_app
from tui.screens.ablation import AblationScreen
from tui.screens.compare import CompareScreen
from tui.screens.confirm import ConfirmScreen, PromptScreen
from tui.screens.runs import RunsScreen


@contextmanager
def reading(store: HomePaths) -> Iterator[Reader]:
    """Open the store beside the application."""
    with Reader(store) as reader:
        yield reader


def runs_screen(pilot: Pilot[Any]) -> RunsScreen:
    """Return the first screen."""
    found = lab(pilot).screen_stack[0]
    assert isinstance(found, RunsScreen)
    return found


async def select(pilot: Pilot[Any], status: str) -> RunRow:
    """Put the cursor on the first run of a status."""
    screen = runs_screen(pilot)
    run = next(run for run in screen.table.rows if run.status == status)
    assert screen.table.select(run.id)
    await pilot.pause()
    return run


async def done(pilot: Pilot[Any], count: int = 1) -> None:
    """Wait until so many actions have been carried out."""
    await until(pilot, lambda: len(lab(pilot).commands) == count, f"{count} commands done")


def requests_of(store: HomePaths, run_id: str) -> list[RequestRow]:
    """Return what was asked about a run."""
    with reading(store) as reader:
        return reader.requests(run_id)


def told(pilot: Pilot[Any]) -> list[str]:
    """Return what was said in notifications."""
    return [notification.message for notification in lab(pilot)._notifications]


async def write(pilot: Pilot[Any], text: str) -> None:
    """Answer a prompt."""
    await until(pilot, lambda: isinstance(pilot.app.screen, PromptScreen), "a prompt")
    from textual.widgets import Input

    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


async def test_cancel_asks_first_and_writes_a_request(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "running")
        await pilot.press("X")
        assert at(pilot, ConfirmScreen).command == f"mambalab cancel {run.id}"
        await pilot.press("n")
        assert requests_of(store, run.id) == []
        await pilot.press("X", "escape")
        assert requests_of(store, run.id) == []
        await pilot.press("X", "y")
        await done(pilot)
        assert [(row.kind, row.status) for row in requests_of(store, run.id)] == [("cancel", "pending")]
        assert lab(pilot).commands[0].command == f"mambalab cancel {run.id}"
        assert lab(pilot).commands[0].error == ""


async def test_cancel_takes_the_marked_runs_that_can_be_cancelled(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        running = await select(pilot, "running")
        await pilot.press("space")
        finished = await select(pilot, "completed")
        await pilot.press("space")
        queued = await select(pilot, "queued")
        await pilot.press("space", "X")
        assert "2 runs" in at(pilot, ConfirmScreen).question
        await pilot.press("enter")
        await done(pilot)
        assert [len(requests_of(store, run.id)) for run in (running, queued, finished)] == [1, 1, 0]
        assert lab(pilot).commands[0].command.endswith("--yes")


async def test_retry_writes_a_request_and_wakes_the_controller(store: HomePaths) -> None:
    woken: list[str] = []
    app = make_app(store, wake_controller=woken.append)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.complete)
        run = await select(pilot, "cancelled")
        await pilot.press("r")
        await done(pilot)
        assert [row.kind for row in requests_of(store, run.id)] == ["retry"]
        assert woken == ["retry"]
        waiting = await select(pilot, "queued")
        await pilot.press("r")  # no controller lives: this goes on with the queue
        await done(pilot, 2)
        assert requests_of(store, waiting.id) == []
        assert woken == ["retry", "retry"]


async def test_priority_asks_for_a_whole_number(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "queued")
        await pilot.press("p")
        await write(pilot, "much")
        await until(pilot, lambda: any("whole number" in text for text in told(pilot)))
        await pilot.press("p")
        await write(pilot, "7")
        await done(pilot)
        assert [(row.kind, row.payload) for row in requests_of(store, run.id)] == [("priority", {"priority": 7})]
        assert lab(pilot).commands[0].command == f"mambalab priority {run.id} 7"


async def test_tags_are_put_on_and_taken_off_and_seen_in_the_list(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "queued")
        await pilot.press("t")
        await write(pilot, "odd +kept")
        await done(pilot, 2)
        await until(pilot, lambda: (found := lab(pilot).snapshot.run(run.id)) and found.tags == ("kept", "odd"))
        await pilot.press("t")
        await write(pilot, "-odd")
        await done(pilot, 3)
        with reading(store) as reader:
            assert reader.tags(run.id) == ["kept"]
        assert lab(pilot).commands[-1].command == f"mambalab untag {run.id} odd"


async def test_a_tag_that_is_none_is_refused_with_the_stores_reason(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await select(pilot, "queued")
        await pilot.press("t")
        await write(pilot, "a,b")
        await done(pilot)
        assert "one word without commas" in lab(pilot).commands[0].error
        assert any("one word without commas" in text for text in told(pilot))


async def test_a_note_is_kept_and_an_empty_one_is_not(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "queued")
        await pilot.press("n")
        await write(pilot, "look at the loss")
        await done(pilot)
        await pilot.press("n")
        await write(pilot, "")
        await pilot.press("n", "escape")
        with reading(store) as reader:
            assert [note.body for note in reader.notes(run.id)] == ["look at the loss"]
        assert lab(pilot).commands[0].command == f"mambalab note {run.id} 'look at the loss'"


async def test_archiving_hides_a_run_and_brings_it_back(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "failed")
        await pilot.press("z")
        await until(pilot, lambda: lab(pilot).snapshot.run(run.id) is None, "it is gone")
        await pilot.press("Z")
        await until(pilot, lambda: lab(pilot).snapshot.run(run.id) is not None, "it is shown")
        assert runs_screen(pilot).table.select(run.id)
        await pilot.press("z")
        await done(pilot, 2)
        assert lab(pilot).commands[1].command == f"mambalab archive --undo {run.id}"
        with reading(store) as reader:
            assert not reader.run(run.id).archived


async def test_ids_and_commands_are_copied(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "completed")
        await pilot.press("y")
        assert pilot.app.clipboard == run.id
        await pilot.press("Y")
        assert pilot.app.clipboard == f"mambalab show {run.id}"


async def test_what_cannot_be_done_says_why_and_does_nothing(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        run = await select(pilot, "completed")
        await pilot.press("X", "r", "p", "c", "u")
        at(pilot, RunsScreen)
        said = " ".join(told(pilot))
        for reason in (
            "can be cancelled; this is completed",
            "can be retried",
            "only queued runs",
            "mark two",
            "nothing is marked",
        ):
            assert reason in said
        assert requests_of(store, run.id) == []


async def test_a_locked_store_is_an_error_in_the_log_and_not_a_crash(
    store: HomePaths, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_arguments: object) -> None:
        raise StoreLocked("lab.db is held by another process")

    async with drive(store) as pilot:
        await select(pilot, "queued")
        monkeypatch.setattr(control, "archive", locked)
        await pilot.press("z")
        await done(pilot)
        assert lab(pilot).commands[0].error == "lab.db is held by another process"
        await pilot.press("at")
        await pilot.pause()
        from tui.widgets.text_view import TextView

        text = str(pilot.app.screen.query_one(TextView)._lines)
        assert "mambalab archive" in text
        assert "held by another process" in text
        await pilot.press("escape")
        at(pilot, RunsScreen)


async def test_an_ablations_cell_is_acted_on_as_a_whole(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("a", "enter")
        await pilot.pause()
        await pilot.press("X")
        ids = at(pilot, ConfirmScreen).command.split()[2:-1]
        await pilot.press("y")
        await done(pilot)
        assert ids
        with reading(store) as reader:
            assert {reader.run(run_id).trial_label for run_id in ids} == {"s4d · 4"}
            assert all(reader.requests(run_id) for run_id in ids)


async def test_marked_cells_are_compared_and_acted_on(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        await pilot.press("a", "enter")
        screen = at(pilot, AblationScreen)
        await until(pilot, lambda: screen.view.matrix is not None, "the matrix")
        everything = len(screen.compared())
        await pilot.press("space", "right", "down", "space")
        assert screen.note() == "2 marked"
        marked = {run.trial_label for run in screen.compared()}
        assert (len(marked), len(screen.compared()), everything) == (2, 6, 24)
        assert {run.trial_label for run in screen.targets()} == marked
        await pilot.press("c")
        assert sorted(at(pilot, CompareScreen).run_ids) == sorted(run.id for run in screen.compared())
        await pilot.press("escape", "escape")
        assert at(pilot, AblationScreen).view.marks == set()
        assert len(screen.compared()) == everything
        await pilot.press("space", "u", "u")
        assert told(pilot)[-1] == "unmark all: nothing is marked"
