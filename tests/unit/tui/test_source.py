"""The source against real stores: what it answers in each state of the store, and what a change makes it read."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from textual.message import Message

from storage import control
from storage.errors import StoreLocked
from storage.home import HomePaths
from storage.queries import Reader
from storage.records import NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
from storage.sample import fill_store
from tests.unit.tui.conftest import RUNS
from tui import run_list, source
from tui.log_tail import LogTail, clean
from tui.messages import CurvesRead, DetailRead, LogRead, ParametersRead, SparksRead, StoreChanged, StoreState
from tui.run_list import newest_event
from tui.source import Interest, StoreSource, living_controller

Kind = TypeVar("Kind", bound=Message)
PROVENANCE = NewProvenance(command="mambalab run", directory="/", hostname="here", python="3.11")


class Watcher:
    """A source that is polled by hand, and what it posted."""

    def __init__(self, paths: HomePaths) -> None:
        self.messages: list[Message] = []
        self.source = StoreSource(paths, self.messages.append)
        self.source.painted()

    def poll(self) -> None:
        """Look once, past the pause between two reads of the ablations."""
        self.source._ablations_at = 0.0
        self.source.poll()

    def is_(self, state: StoreState) -> bool:
        """Tell whether the store answered so last."""
        return self.source.snapshot.state is state

    def last(self, kind: type[Kind]) -> Kind:
        """Return the newest message of a kind."""
        return [message for message in self.messages if isinstance(message, kind)][-1]

    def count(self, kind: type[Message]) -> int:
        """Return how many messages of a kind there were."""
        return sum(isinstance(message, kind) for message in self.messages)


@pytest.fixture
def watch() -> object:
    """Return a maker of watchers whose connections are closed in the end."""
    made: list[Watcher] = []

    def make(paths: HomePaths) -> Watcher:
        made.append(Watcher(paths))
        return made[-1]

    yield make
    for watcher in made:
        watcher.source._close()


Watch = Callable[[HomePaths], Watcher]


def test_a_store_that_is_not_there_appears_once_it_is_made(tmp_path: Path, watch: Watch) -> None:
    paths = HomePaths(tmp_path / "lab")
    watcher = watch(paths)
    watcher.poll()
    assert watcher.is_(StoreState.MISSING)
    assert "mambalab submit" in watcher.source.snapshot.message
    Repository(paths).close()
    watcher.poll()
    assert watcher.is_(StoreState.EMPTY)
    fill_store(paths, runs=2, points=3)
    watcher.poll()
    assert watcher.is_(StoreState.READY)
    assert len(watcher.source.snapshot.runs) == 2


@pytest.mark.parametrize(("version", "state"), [(99, StoreState.NEWER), (-1, StoreState.OLDER)])
def test_another_schema_is_not_opened(store: HomePaths, watch: Watch, version: int, state: StoreState) -> None:
    with closing(sqlite3.connect(store.database)) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    watcher = watch(store)
    watcher.poll()
    assert watcher.is_(state)
    assert watcher.source.snapshot.runs == ()


def test_a_file_that_is_no_store_is_said_to_be_none(tmp_path: Path, watch: Watch) -> None:
    paths = HomePaths(tmp_path)
    paths.database.write_bytes(b"not a database at all" * 100)
    watcher = watch(paths)
    watcher.poll()
    assert watcher.is_(StoreState.MISSING)


def test_while_the_store_is_locked_the_last_answer_stays(
    store: HomePaths, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watch(store)
    watcher.poll()
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "data_version", _raise_locked)
        watcher.poll()
        assert watcher.is_(StoreState.LOCKED)
        assert len(watcher.source.snapshot.runs) == RUNS
    watcher.poll()
    assert watcher.is_(StoreState.READY)


def _raise_locked(*_arguments: object) -> int:
    raise StoreLocked("held by another process")


def test_a_first_read_that_fails_halfway_is_made_good(
    store: HomePaths, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watch(store)
    with monkeypatch.context() as patch:
        patch.setattr(source, "newest_event", _raise_locked)
        watcher.poll()
        assert watcher.is_(StoreState.LOCKED)
    watcher.poll()
    assert len(watcher.source.snapshot.runs) == RUNS


def test_nothing_is_read_or_posted_while_nothing_changes(
    store: HomePaths, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watch(store)
    watcher.poll()
    posted = len(watcher.messages)
    monkeypatch.setattr(Reader, "runs", _raise_locked)
    watcher.poll()
    assert len(watcher.messages) == posted
    assert watcher.is_(StoreState.READY)


def test_many_runs_are_shown_before_all_are_read(
    store: HomePaths, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "FIRST_RUNS", 10)
    watcher = watch(store)
    watcher.poll()
    first, second = [message.snapshot for message in watcher.messages if isinstance(message, StoreChanged)]
    assert (len(first.runs), first.complete) == (10, False)
    assert (len(second.runs), second.complete) == (RUNS, True)
    assert first.runs == second.runs[:10]


def test_a_change_reads_only_the_runs_it_is_about(
    store: HomePaths, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watch(store)
    watcher.poll()
    before = {run.id: run for run in watcher.source.snapshot.runs}
    running = next(run for run in before.values() if run.status == "running")
    with Repository(store) as repository:
        batch = RecordBatch([(1.0, 1999, {"valid/accuracy": 0.75, "new/metric": 1.0})], cursor=10**9)
        assert repository.record(running.id, running.attempt, batch)
    monkeypatch.setattr(run_list.RunList, "full", _fail)
    watcher.poll()
    after = {run.id: run for run in watcher.source.snapshot.runs}
    assert after[running.id].metrics["valid/accuracy"] == 0.75
    assert "new/metric" in watcher.source.snapshot.fields.metrics
    untouched = [run for run in before.values() if run.status != "running"]
    assert all(after[run.id] is run for run in untouched)
    assert [run.num for run in after.values()] == [run.num for run in before.values()]


def _fail(*_arguments: object, **_options: object) -> None:
    raise AssertionError("the whole list was read")


def test_a_state_change_of_a_waiting_run_is_seen(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    queued = next(run for run in watcher.source.snapshot.runs if run.status == "queued")
    with Repository(store) as repository:
        assert repository.cancel_queued(queued.id, 1.0)
    watcher.poll()
    found = watcher.source.snapshot.run(queued.id)
    assert found is not None
    assert found.status == "cancelled"


def test_a_new_run_comes_first(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    with Repository(store) as repository:
        done = repository.submit(ablation=None, runs=[NewRun("fresh", {"seed": 1}, "hash")], provenance=PROVENANCE)
    watcher.poll()
    assert watcher.source.snapshot.runs[0].id == done.run_ids[0]
    assert len(watcher.source.snapshot.runs) == RUNS + 1


def test_archived_runs_leave_and_can_be_asked_for(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    run = watcher.source.snapshot.runs[0]
    control.archive(store, [run.id], True)
    watcher.source.refresh()
    watcher.poll()
    assert watcher.source.snapshot.run(run.id) is None
    watcher.source.refresh(archived=True)
    watcher.poll()
    assert watcher.source.snapshot.run(run.id) == replace(run, archived=True)


def test_a_store_that_is_replaced_is_opened_anew(store: HomePaths, tmp_path: Path, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    other = HomePaths(tmp_path / "other")
    fill_store(other, runs=3, points=2, seed=9)
    for suffix in ("-wal", "-shm"):
        Path(f"{store.database}{suffix}").unlink(missing_ok=True)
    other.database.replace(store.database)
    watcher.source._looked_at = 0.0
    watcher.poll()
    assert len(watcher.source.snapshot.runs) == 3


def test_details_curves_sparks_and_parameters_are_read_for_those_who_look(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    run = next(run for run in watcher.source.snapshot.runs if run.status == "completed")
    watcher.source.watch(
        Interest(detail=run.id, curves=(run.id,), sparks=((run.id, "valid/accuracy"),), parameters=(run.id,))
    )
    watcher.poll()
    detail = watcher.last(DetailRead).detail
    assert detail.run == run
    assert [attempt.status for attempt in detail.attempts] == ["completed"]
    assert detail.provenance is not None
    curves = watcher.last(CurvesRead)
    assert curves.complete
    assert len(curves.curves[run.id]["valid/accuracy"]) == 12
    assert len(watcher.last(SparksRead).sparks[run.id]) == 12
    assert watcher.last(ParametersRead).parameters == {run.id: 41_088}
    posted = watcher.count(CurvesRead)
    watcher.poll()
    assert watcher.count(CurvesRead) == posted


def test_another_screen_is_told_the_small_curves_that_were_read_for_the_first(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    first, second, *_ = (run for run in watcher.source.snapshot.runs if run.status == "completed")
    pairs = tuple((run.id, "valid/accuracy") for run in (first, second))
    for interest in (
        Interest(sparks=pairs, asker=1),
        Interest(sparks=pairs, asker=2),
        Interest(sparks=pairs[:1], asker=2),
    ):
        posted = watcher.count(SparksRead)
        watcher.source.watch(interest)
        watcher.poll()
        assert watcher.count(SparksRead) == posted + 1
        assert list(watcher.last(SparksRead).sparks) == [run for run, _ in interest.sparks]


def test_small_curves_that_the_time_did_not_suffice_for_follow(
    store: HomePaths, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.curve_cache.BUDGET_S", -1.0)
    watcher = watch(store)
    watcher.poll()
    run = next(run for run in watcher.source.snapshot.runs if run.status == "completed")
    watcher.source.watch(Interest(sparks=((run.id, "valid/accuracy"),)))
    watcher.poll()
    assert run.id not in watcher.last(SparksRead).sparks
    monkeypatch.setattr("tui.curve_cache.BUDGET_S", 10.0)
    watcher.poll()
    assert len(watcher.last(SparksRead).sparks[run.id]) == 12


def test_curves_are_read_on_from_their_end_and_anew_after_a_retry(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    run = next(run for run in watcher.source.snapshot.runs if run.status == "running")
    watcher.source.watch(Interest(curves=(run.id,)))
    watcher.poll()
    before = watcher.last(CurvesRead).curves[run.id]["train/loss"]
    with Repository(store) as repository:
        rows = [(1.0, run.step + 1, {"train/loss": float("nan")}), (2.0, run.step + 2, {"train/loss": 0.5})]
        assert repository.record(run.id, run.attempt, RecordBatch(rows, cursor=10**9))
    watcher.poll()
    after = watcher.last(CurvesRead).curves[run.id]["train/loss"]
    assert after.steps.tolist() == [*before.steps.tolist(), run.step + 1, run.step + 2]
    assert after.values[-1] == 0.5
    assert after.values[-2] != after.values[-2]


def test_a_value_that_is_replaced_at_the_last_step_replaces_the_curve_s(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    run = next(run for run in watcher.source.snapshot.runs if run.status == "running")
    watcher.source.watch(Interest(curves=(run.id,)))
    lengths = []
    for cursor, value in enumerate((10.0, 20.0, float("nan"), 30.0)):
        with Repository(store) as repository:
            rows = [(100.0 + cursor, run.step, {"system/cpu_percent": value})]
            assert repository.record(run.id, run.attempt, RecordBatch(rows, cursor=10**9 + cursor))
        watcher.poll()
        curve = watcher.last(CurvesRead).curves[run.id]["system/cpu_percent"]
        lengths.append((len(curve), curve.values[-1] == value or value != value, curve.at[-1]))
    assert lengths == [(1, True, 100.0 + cursor) for cursor in range(4)]


def test_a_sample_of_a_curve_holds_its_values_at_even_places(store: HomePaths) -> None:
    with Reader(store) as reader:
        run = next(run for run in reader.runs() if run.status == "completed")
        values = reader.series(run.id, "valid/accuracy").values.tolist()
        assert reader.sample(run.id, "valid/accuracy", 12) == values
        assert reader.sample(run.id, "valid/accuracy", 3) == [values[3], values[7], values[11]]
        assert reader.sample(run.id, "valid/accuracy", 100)[-1] == values[-1]
        assert reader.sample(run.id, "no/such", 4) == []


def test_the_newest_event_is_found_by_a_few_probes(store: HomePaths) -> None:
    with Reader(store) as reader:
        events = reader.events(limit=100_000)
        assert newest_event(reader) == events[-1].id
    empty = HomePaths(store.root.parent / "empty")
    Repository(empty).close()
    with Reader(empty) as reader:
        assert newest_event(reader) == 0


def test_the_controller_is_alive_as_long_as_its_process_is(store: HomePaths) -> None:
    assert not living_controller(store)
    store.controller_json.write_text(json.dumps({"pid": os.getpid()}))
    assert living_controller(store) == os.getpid()
    store.controller_json.write_text(json.dumps({"pid": 2**22 + 1}))
    assert not living_controller(store)
    store.controller_json.write_text("{")
    assert not living_controller(store)


def test_a_log_is_followed_line_by_line(store: HomePaths, watch: Watch) -> None:
    watcher = watch(store)
    watcher.poll()
    run = watcher.source.snapshot.runs[0]
    log = store.attempt(run.id, 1).log
    log.parent.mkdir(parents=True)
    log.write_bytes(b"one\r\nstep 1\rstep 2\rstep 3\n\x1b[31mred\x1b[0m un")
    watcher.source.watch(Interest(log=(run.id, 1)))
    watcher.poll()
    first = watcher.last(LogRead)
    assert (first.lines, first.first) == (("one", "step 3"), True)
    with log.open("ab") as file:
        file.write(b"finished\nnext\n")
    watcher.poll()
    assert (watcher.last(LogRead).lines, watcher.last(LogRead).first) == (("red unfinished", "next"), False)
    log.write_bytes(b"anew\n")
    watcher.poll()
    assert (watcher.last(LogRead).lines, watcher.last(LogRead).first) == (("anew",), True)


def test_a_long_log_begins_at_a_whole_line_near_its_end(store: HomePaths) -> None:
    log = store.attempt("abc", 1).log
    log.parent.mkdir(parents=True)
    log.write_bytes(b"".join(b"line %06d\n" % index for index in range(100_000)))
    lines, first = LogTail(store, "abc", 1).read()
    assert first
    assert lines[-1] == "line 099999"
    assert lines[0].startswith("line 0")
    assert len(lines) < 50_000


def test_a_log_that_is_not_there_is_no_error(store: HomePaths) -> None:
    assert LogTail(store, "abc", 1).read() == ([], True)
    assert LogTail(store, "abc", 0).read() == ([], True)
    assert clean("a\tb\x07") == "a   b"
