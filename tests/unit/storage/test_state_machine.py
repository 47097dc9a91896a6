"""Whatever a user and a controller do in whatever order, the store says what a plain dictionary says."""

from __future__ import annotations

import math
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from storage import control
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import AttemptEnd, Repository
from storage.status import AttemptStatus, RequestKind
from tests.unit.storage.lab import new_run, piece, submit

KEYS = ("train/loss", "valid/accuracy", "train/lr")
VALUES = st.sampled_from([0.5, -1.0, math.inf, -math.inf, math.nan])
WHICH = st.sampled_from([0, 0, 0, 1, 2])  # of the runs there are
BACK = st.sampled_from([0, 0, 0, 1])  # attempts before the newest
ENDS = st.sampled_from([status for status in AttemptStatus if status is not AttemptStatus.RUNNING])


@dataclass
class Expected:
    """What a run should be."""

    status: str = "queued"
    step: int = 0
    max_attempts: int = 3
    attempts: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    cursors: list[int] = field(default_factory=list)
    points: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)

    @property
    def latest(self) -> dict[str, float]:
        """The value of each metric at its highest step."""
        newest = {key: max(step for name, step in self.points if name == key) for key, _ in self.points}
        return {key: self.points[key, step][0] for key, step in newest.items()}


class Store(RuleBasedStateMachine):
    """Drives a store and a model of it side by side. Few runs, so that each goes through much."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.paths = HomePaths(self.folder)
        shutil.copy(self.template, self.paths.database)
        self.repository = Repository(self.paths)
        self.reader = Reader(self.paths)
        self.plain = sqlite3.connect(self.paths.database)
        self.expected: dict[str, Expected] = {}
        self.pending: dict[int, str] = {}
        self.now = 1000.0
        self.submit()
        self.begin(0)

    def teardown(self) -> None:
        self.reader.close()
        self.plain.close()
        self.repository.close()
        shutil.rmtree(self.folder)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def pick(self, which: int) -> tuple[str, Expected]:
        return list(self.expected.items())[which % len(self.expected)]

    def begun(self, which: int) -> tuple[str, Expected]:
        begun = [(run_id, run) for run_id, run in self.expected.items() if run.attempts]
        return begun[which % len(begun)]

    @precondition(lambda self: len(self.expected) < 3)
    @rule()
    def submit(self) -> None:
        (run_id,) = submit(self.repository, new_run(len(self.expected)))
        self.expected[run_id] = Expected()

    @rule(which=WHICH)
    def begin(self, which: int) -> None:
        run_id, run = self.pick(which)
        number = self.repository.begin_attempt(run_id, executor="inline", now=self.tick())
        assert number == (len(run.attempts) + 1 if run.status == "queued" else None)
        if number is not None:
            run.status = "running"
            run.attempts.append("running")
            run.resumed.append(0)
            run.cursors.append(-1)

    @rule(
        which=WHICH,
        back=BACK,
        ahead=st.sampled_from([1, 1, 1, 2, 0, -1]),
        rows=st.lists(
            st.tuples(st.integers(1, 6), st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1)), max_size=4
        ),
        resumed=st.sampled_from([None, None, None, 2, 4]),
    )
    def record(
        self, which: int, back: int, ahead: int, rows: list[tuple[int, dict[str, float]]], resumed: int | None
    ) -> None:
        run_id, run = self.begun(which)
        number = max(1, len(run.attempts) - back)
        cursor = max(0, run.cursors[number - 1] + ahead)
        notes = [] if resumed is None else [("resume", {"step": resumed})]
        taken = number == len(run.attempts) and cursor > run.cursors[number - 1]
        assert self.repository.record(run_id, number, piece(cursor, *rows, notes=notes)) == taken
        if not taken:
            return
        run.cursors[number - 1] = cursor
        if resumed is not None:
            run.resumed[number - 1] = resumed
        for step, values in rows:
            run.step = max(run.step, step)
            for key, value in values.items():
                run.points[key, step] = (value, number)

    @rule(which=WHICH, back=BACK, status=ENDS, again=st.booleans(), step=st.sampled_from([None, 3, 6]))
    def finish(self, which: int, back: int, status: AttemptStatus, again: bool, step: int | None) -> None:
        run_id, run = self.begun(which)
        number = max(1, len(run.attempts) - back)
        retried = again and status is not AttemptStatus.COMPLETED
        end = AttemptEnd(status, now=self.tick(), step=step, retry_at=self.now if retried else None)
        ended = number == len(run.attempts) and run.attempts[-1] == "running"
        assert self.repository.finish_attempt(run_id, number, end) == ended
        if not ended:
            return
        run.attempts[-1] = status.value
        run.status = "queued" if retried else status.of_run.value
        if status is AttemptStatus.COMPLETED:
            run.step = run.step if step is None else step
            keep = run.resumed[-1]
            run.points = {at: point for at, point in run.points.items() if point[1] == number or at[1] <= keep}
        else:
            run.step = max(run.step, step or 0)

    @rule(which=WHICH)
    def relay(self, which: int) -> None:
        """Lose the attempt at work and begin the next: what makes older attempts, whose late words the rest tries."""
        self.finish(which, 0, AttemptStatus.LOST, True, None)
        place = list(self.expected).index(self.begun(which)[0])
        self.begin(place)

    @rule(which=WHICH, kind=st.sampled_from([RequestKind.CANCEL, RequestKind.RETRY, RequestKind.RETRY]))
    def ask(self, which: int, kind: RequestKind) -> None:
        run_id, _ = self.pick(which)
        (number,) = control.request(self.paths, kind, [run_id])
        self.pending[number] = run_id

    @rule()
    def settle(self) -> None:
        requests = self.repository.pending_requests()
        assert [(row.id, row.run_id) for row in requests] == list(self.pending.items())
        assert all(row.run_status == self.expected[row.run_id].status for row in requests)
        for row in requests[:1]:
            run = self.expected[row.run_id]
            if row.kind == "cancel":
                done = self.repository.cancel_queued(row.run_id, self.tick())
                assert done == (run.status == "queued")
                run.status = "cancelled" if done else run.status
            else:
                done = self.repository.requeue(row.run_id, self.tick())
                assert done == (run.status in ("failed", "cancelled"))
                run.status = "queued" if done else run.status
                run.max_attempts += done
            self.repository.settle_request(row.id, done=done, outcome="", now=self.tick())
            del self.pending[row.id]

    @rule()
    def restart(self) -> None:
        self.repository.close()
        self.repository = Repository(self.paths)

    @invariant()
    def runs_are_as_expected(self) -> None:
        rows = self.reader.runs()
        assert {row.id for row in rows} == set(self.expected)
        for row in rows:
            run = self.expected[row.id]
            assert (row.status, row.step, row.attempt, row.max_attempts) == (
                run.status,
                run.step,
                len(run.attempts),
                run.max_attempts,
            )
            assert repr(dict(sorted(row.metrics.items()))) == repr(dict(sorted(run.latest.items())))
            assert [attempt.status for attempt in self.reader.attempts(row.id)] == run.attempts
            assert (row.finished_at is not None) == (run.status in ("completed", "failed", "cancelled"))

    @invariant()
    def one_attempt_at_most_is_at_work(self) -> None:
        running = [(run_id, len(run.attempts)) for run_id, run in self.expected.items() if run.status == "running"]
        assert [(row.run_id, row.number) for row in self.repository.running()] == running
        at_work = self.plain.execute("SELECT run_id, number FROM attempt WHERE status = 'running' ORDER BY id")
        assert sorted(at_work) == sorted(running)
        assert [max(0, self.expected[row.run_id].cursors[-1]) for row in self.repository.running()] == [
            row.cursor for row in self.repository.running()
        ]

    @invariant()
    def no_metric_is_lost_or_doubled(self) -> None:
        stored = self.plain.execute(
            "SELECT run.id, metric_key.name, metric.step, metric.value, metric.attempt FROM metric"
            " JOIN run ON run.num = metric.run JOIN metric_key ON metric_key.id = metric.key",
        )
        expected = [
            (run_id, key, step, None if math.isnan(value) else value, number)
            for run_id, run in self.expected.items()
            for (key, step), (value, number) in run.points.items()
        ]
        assert sorted(stored, key=repr) == sorted(expected, key=repr)


def test_any_sequence(template: Path) -> None:
    Store.template = template
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
