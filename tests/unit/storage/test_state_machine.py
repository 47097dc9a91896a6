"""Whatever a user and a controller do in whatever order, the store says what a plain dictionary says."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from storage import control
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import AttemptEnd, Repository
from storage.status import AttemptStatus, RequestKind
from tests.unit.storage.lab import new_run, piece, rows_of, submit

KEYS = ("train/loss", "valid/accuracy", "train/lr")
VALUES = st.sampled_from([0.5, -1.0, math.inf, -math.inf, math.nan])
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
    """Drives a store and a model of it side by side."""

    template: Path
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.paths = HomePaths(self.folder)
        shutil.copy(self.template, self.paths.database)
        self.repository = Repository(self.paths)
        self.reader = Reader(self.paths)
        self.expected: dict[str, Expected] = {}
        self.pending: dict[int, str] = {}
        self.now = 1000.0

    def teardown(self) -> None:
        self.reader.close()
        self.repository.close()
        shutil.rmtree(self.folder)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    @rule(target=runs, seed=st.integers(0, 9))
    def submit(self, seed: int) -> str:
        (run_id,) = submit(self.repository, new_run(seed))
        self.expected[run_id] = Expected()
        return run_id

    @rule(run_id=runs)
    def begin(self, run_id: str) -> None:
        run = self.expected[run_id]
        number = self.repository.begin_attempt(run_id, executor="inline", now=self.tick())
        assert number == (len(run.attempts) + 1 if run.status == "queued" else None)
        if number is not None:
            run.status = "running"
            run.attempts.append("running")
            run.resumed.append(0)
            run.cursors.append(-1)

    @rule(
        run_id=runs,
        back=st.integers(0, 1),
        ahead=st.integers(-1, 2),
        rows=st.lists(
            st.tuples(st.integers(1, 12), st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1)), max_size=4
        ),
        resumed=st.none() | st.integers(0, 12),
    )
    def record(
        self, run_id: str, back: int, ahead: int, rows: list[tuple[int, dict[str, float]]], resumed: int | None
    ) -> None:
        run = self.expected[run_id]
        number = len(run.attempts) - back
        if number < 1:
            return
        cursor = max(0, run.cursors[number - 1] + ahead)
        notes = [] if resumed is None else [("resume", {"step": resumed})]
        taken = back == 0 and cursor > run.cursors[number - 1]
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

    @rule(run_id=runs, back=st.integers(0, 1), status=ENDS, again=st.booleans(), step=st.none() | st.integers(0, 12))
    def finish(self, run_id: str, back: int, status: AttemptStatus, again: bool, step: int | None) -> None:
        run = self.expected[run_id]
        number = len(run.attempts) - back
        if number < 1:
            return
        retried = again and status is not AttemptStatus.COMPLETED
        end = AttemptEnd(status, now=self.tick(), step=step, retry_at=self.now if retried else None)
        ended = back == 0 and run.attempts[-1] == "running"
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

    @rule(run_id=runs, kind=st.sampled_from([RequestKind.CANCEL, RequestKind.RETRY]))
    def ask(self, run_id: str, kind: RequestKind) -> None:
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
        at_work = rows_of(self.paths, "SELECT run_id, number FROM attempt WHERE status = 'running' ORDER BY id")
        assert sorted(at_work) == sorted(running)
        assert [max(0, self.expected[row.run_id].cursors[-1]) for row in self.repository.running()] == [
            row.cursor for row in self.repository.running()
        ]

    @invariant()
    def no_metric_is_lost_or_doubled(self) -> None:
        stored = rows_of(
            self.paths,
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
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
