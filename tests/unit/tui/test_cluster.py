"""The cluster screen: machines, holders, the queue with its reasons, and how the controller is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

from storage.cluster import ClusterRow, Holding, Machine, Phase, Standing, Waiting
from storage.home import HomePaths
from storage.queries import Reader
from storage.records import RecordBatch
from storage.repository import Repository
from storage.rows import RunRow
from storage.sample import NOW
from tests.unit.tui.conftest import Drive, at, lab, until
from tests.unit.tui.test_screens import bar_text, text_of
from tui.cluster_lines import cluster_lines, host_use
from tui.screens.cluster import ClusterScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.theme import DARK
from tui.widgets.status_bar import TopBar, store_words

CONTROLLER = {"pid": 7, "host": "box", "executor": "ray", "address": "", "cluster": {"address": "127.0.0.1:6379"},
              "started_at": NOW - 7500.0}  # fmt: skip
Say = Callable[..., ClusterRow]


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Return a list whose last entry is the living controller's process."""
    process: list[int | None] = [7]
    monkeypatch.setattr("tui.source.living_controller", lambda _paths: process[-1])
    return process


def by_status(paths: HomePaths, status: str) -> list[RunRow]:
    with Reader(paths) as reader:
        return sorted((run for run in reader.runs() if run.status == status), key=lambda run: run.num)


@pytest.fixture
def say(store: HomePaths) -> Say:
    """Return what writes the controller's row; by default, two runs at work on two GPUs and three that wait."""

    def write(**changes: Any) -> ClusterRow:
        one, two = by_status(store, "running")[:2]
        queue = by_status(store, "queued")[:3]
        held = (Holding(one.id, 1, 1.0, 0.5, (0,)), Holding(two.id, 2, 2.0, 1.0, (1,)))
        row = ClusterRow(
            NOW - 1.0,
            CONTROLLER,
            Phase.WORKING,
            "",
            (Machine("n1", "box 127.0.0.1", 8.0, 3, held), Machine("n2", "", 4.0, 0)),
            (
                Waiting(queue[0].id, "asks for 2 GPUs, 1 free"),
                Waiting(queue[1].id, "keeps room for larger runs before it"),
                Waiting(queue[2].id, "pauses before its next attempt", NOW + 30.0),
            ),
            12,
        )
        row = replace(row, **changes)
        with Repository(store) as repository:
            repository.set_cluster(row)
        return row

    return write


def painted(screen: ClusterScreen) -> str:
    """Return the table as it is painted."""
    table = screen.table
    return "\n".join(table.render_line(y).text.rstrip() for y in range(table.size.height))


async def opened(pilot: Pilot[Any]) -> ClusterScreen:
    await pilot.press("w")
    screen = at(pilot, ClusterScreen)
    await until(pilot, lambda: screen._told, "what the source knows")
    return screen


async def test_it_shows_who_holds_what_and_why_the_others_wait(
    store: HomePaths, drive: Drive, say: Say, alive: list[int | None]
) -> None:
    say()
    one, two = by_status(store, "running")[:2]
    with Repository(store) as repository:
        values = {"system/gpu0_percent": 96.0, "system/gpu0_memory_mb": 9216.0, "system/gpu0_power_w": 341.4,
                  "system/gpu0_temperature_c": 61.0, "system/host_cpu_percent": 31.0, "system/host_memory_percent": 22.0}  # fmt: skip
        for run, more in ((one, {}), (two, {"system/gpu0_percent": 12.0})):
            batch = RecordBatch([(NOW, run.step, {**values, **more})], cursor=10**9)
            assert repository.record(run.id, run.attempt, batch)
    async with drive(store, size=(180, 40)) as pilot:
        screen = await opened(pilot)
        text = painted(screen)
        lines = [line.strip() for line in text.splitlines()]
        assert "box 127.0.0.1  3 of 8 CPUs, 1.5 of 3 GPUs in use  CPUs 31 % busy, memory 22 %" in lines
        assert "n2  0 of 4 CPUs in use, no GPU" in lines
        assert "queue  12 wait" in lines
        gpu = [line for line in lines if "0.5 GPU 1 CPU" in line or "1 GPU 2 CPU" in line]
        assert "96%  9.0 GiB  341W  61°C" in gpu[0]
        assert gpu[1].startswith("GPU 1")
        assert "12%  9.0 GiB  341W  61°C, attempt 2" in gpu[1]
        assert next(line for line in lines if line.startswith("GPU 2")).split()[2] == "free"
        assert "asks for 2 GPUs, 1 free" in text
        assert "pauses before its next attempt, in 30s" in text
        standing = bar_text(screen, "#standing")
        assert "● the controller is at work  heard 1s ago  up 2h05  ray at 127.0.0.1:6379  process 7 on box" in standing
        load = bar_text(screen, "#load")
        assert "3 of 12" in load
        assert "1.5 of 3" in load
        assert "▶ 2 at work  ○ 12 wait, the first 3 are shown" in load
        assert not screen.query_one("#advice").display


async def test_runs_are_opened_and_controlled_from_it(
    store: HomePaths, drive: Drive, say: Say, alive: list[int | None]
) -> None:
    row = say()
    async with drive(store) as pilot:
        screen = await opened(pilot)
        first = row.machines[0].holdings[0].run_id
        assert screen.targets()[0].id == first
        await pilot.press("enter")
        run = at(pilot, RunScreen)
        assert run.run_id == first
        assert run.listed == [*(held.run_id for held in row.machines[0].holdings), *(one.run_id for one in row.waiting)]
        await pilot.press("escape")
        at(pilot, ClusterScreen)
        await pilot.press("j", "j")
        assert screen.targets() == []
        await pilot.press("enter")
        at(pilot, ClusterScreen)
        await pilot.press("G", "X")
        at(pilot, ConfirmScreen)
        await pilot.press("y")
        await until(pilot, lambda: lab(pilot).commands, "the command")
        assert lab(pilot).commands[0].command == f"mambalab cancel {row.waiting[-1].run_id}"
        await pilot.press("escape")
        at(pilot, RunsScreen)


async def test_it_follows_what_the_controller_says(
    store: HomePaths, drive: Drive, say: Say, alive: list[int | None]
) -> None:
    say()
    async with drive(store) as pilot:
        screen = await opened(pilot)
        say(machines=(), told="the Ray head does not answer")
        await until(
            pilot, lambda: "! the Ray head does not answer" in bar_text(screen, "#standing"), "the head is down"
        )
        assert "started anew by itself" in bar_text(screen, "#advice")
        assert "no CPUs" in bar_text(screen, "#load")
        await until(pilot, lambda: lab(pilot).snapshot.standing is Standing.DOWN, "all screens know")
        say(machines=(), told="the Ray head does not answer", controller={**CONTROLLER, "address": "head:6379"})
        await until(pilot, lambda: "until it answers" in bar_text(screen, "#advice"), "the other advice")
        alive.append(None)
        await until(pilot, lambda: "process 7) is gone without a word" in bar_text(screen, "#standing"), "it is gone")
        assert "controller.log" in bar_text(screen, "#advice")
        say(phase=Phase.ENDED, told="it was asked to")
        await until(pilot, lambda: "has ended: it was asked to" in bar_text(screen, "#standing"), "it has ended")
        assert "mambalab retry" in bar_text(screen, "#advice")


async def test_a_controller_that_says_nothing_is_noticed(
    store: HomePaths, drive: Drive, say: Say, alive: list[int | None]
) -> None:
    say(at=NOW - 60.0)
    async with drive(store) as pilot:
        screen = await opened(pilot)
        assert "lives and says nothing" in bar_text(screen, "#standing")
        assert "heard 1m00 ago" in bar_text(screen, "#standing")
        assert "mambalab down" in bar_text(screen, "#advice")
        top = screen.query_one(TopBar)
        assert store_words(top.snapshot, DARK)[0].startswith("! controller silent")


@pytest.mark.parametrize(
    ("pid", "words"), [(None, "No controller has worked on this store yet."), (7, "The controller starts ...")]
)
async def test_before_anything_was_said(
    store: HomePaths, drive: Drive, alive: list[int | None], pid: int | None, words: str
) -> None:
    alive.append(pid)
    async with drive(store) as pilot:
        screen = await opened(pilot)
        assert words in text_of(pilot, "#empty")
        assert screen.has_class("-empty")
        await pilot.press("j", "G", "enter", "X", "escape")
        at(pilot, RunsScreen)


async def test_without_a_store_it_says_so(tmp_path: Any, drive: Drive) -> None:
    async with drive(HomePaths(tmp_path / "none")) as pilot:
        await pilot.press("w")
        at(pilot, ClusterScreen)
        assert "There is no store at" in text_of(pilot, "#empty")


def test_a_run_that_the_list_does_not_hold_is_shown_by_its_id() -> None:
    machine = Machine("n", "", 1.0, 0, (Holding("abc", 1, 1.0, 0.0),))
    row = ClusterRow(NOW, CONTROLLER, Phase.WORKING, "", (machine,), (Waiting("xyz", "starts next"),), 1)
    held, waiting = cluster_lines(row, {}, NOW)
    assert (held.title, held.status, held.progress, held.share, held.use) == ("abc", "running", None, "1 CPU", "")
    assert (waiting.title, waiting.status, waiting.why) == ("xyz", "queued", "starts next")
    assert host_use(machine, {}) == ""
