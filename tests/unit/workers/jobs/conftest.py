"""A controller with an executor and a clock that do what a test tells them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from storage.control import request
from storage.home import HomePaths
from storage.queries import Reader
from storage.records import NewProvenance, NewRun
from storage.repository import Repository
from storage.rows import RunRow
from storage.status import RequestKind
from workers.jobs.attempt import AttemptSpec, WorkerExit
from workers.jobs.controller import Controller
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Capacity, Node, Report
from workers.jobs.retry import Backoff
from workers.jobs.settings import ControllerSettings
from workers.jobs.spool import metrics_line, note_line

EPOCH = 1_700_000_000.0


class FakeClock:
    """Time passes only where somebody waits, or a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return EPOCH + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def wake(self) -> None:
        """Nobody sleeps here."""


@dataclass
class FakeAttempt:
    """What an executor knows of an attempt; a test writes it."""

    spec: AttemptSpec
    spool: bytes = b""
    report: Report = field(default_factory=lambda: Report("running"))
    stops: list[float] = field(default_factory=list)
    released: bool = False
    starts: int = 0

    def log(self, step: int, **values: float) -> None:
        named = {name.replace("_", "/"): value for name, value in values.items()}
        self.spool += metrics_line(EPOCH + step, step, named)

    def note(self, name: str, **payload: Any) -> None:
        self.spool += note_line(EPOCH, name, payload)

    def complete(self, step: int = 1) -> None:
        self.ends("completed", "steps", step, WorkerExit.COMPLETED)

    def fail(self, reason: str, error: str = "it broke", traceback: str = "Traceback: it broke") -> None:
        self.ends("failed", reason, 1, WorkerExit.FAILED, error=error, traceback=traceback)

    def ends(self, status: str, reason: str, step: int, code: int, **more: Any) -> None:
        result = {"status": status, "reason": reason, "step": step, **more}
        self.report = Report("exited", exit_code=int(code), result=result)

    def dies(self, code: int | None = -9) -> None:
        self.report = Report("exited", exit_code=code)

    def vanishes(self, detail: str = "") -> None:
        self.report = Report("gone", detail=detail)


class FakeExecutor:
    """Remembers what it is asked; attempts end when a test ends them."""

    def __init__(self, nodes: tuple[Node, ...] = (Node("here", 2.0),), name: str = "fake") -> None:
        self.name = name
        self.nodes = nodes
        self.attempts: dict[str, FakeAttempt] = {}
        self.obedient = True  # a worker that is asked to stop saves its state and ends
        self.refuses: set[str] = set()  # runs that cannot be started
        self.raises: dict[str, Exception] = {}  # by run: what a poll raises
        self.on_start: Callable[[FakeAttempt], None] = lambda attempt: None

    def capacity(self) -> Capacity:
        return Capacity(self.nodes)

    def start(self, attempt: AttemptSpec) -> str:
        if attempt.run_id in self.refuses:
            raise ExecutorError("no process can be started")
        handle = json.dumps({"key": attempt.key})
        found = self.attempts.setdefault(handle, FakeAttempt(attempt))
        found.starts += 1
        self.on_start(found)
        return handle

    def poll(self, handle: str, cursor: int) -> Report:
        attempt = self.attempts[handle]
        if attempt.spec.run_id in self.raises:
            raise self.raises[attempt.spec.run_id]
        new = attempt.spool[cursor:]
        report = attempt.report
        return Report(report.state, report.exit_code, new, cursor + len(new), report.result, report.detail)

    def stop(self, handle: str, grace_s: float) -> None:
        attempt = self.attempts[handle]
        attempt.stops.append(grace_s)
        if self.obedient and attempt.report.state == "running":
            attempt.ends("stopped", "stopped", 5, WorkerExit.STOPPED, resumed_from=0)

    def release(self, handle: str) -> None:
        self.attempts[handle].released = True

    def close(self) -> None:
        """Nothing is held."""

    def of(self, run_id: str, number: int = 1) -> FakeAttempt:
        return self.attempts[json.dumps({"key": f"run-{run_id}-{number}"})]

    @property
    def started(self) -> list[str]:
        return [attempt.spec.run_id for attempt in self.attempts.values()]


class Lab:
    """A store, a fake executor, a fake clock, and the controllers that a test makes of them."""

    def __init__(self, paths: HomePaths) -> None:
        self.paths = paths
        self.clock = FakeClock()
        self.executor = FakeExecutor()
        self.settings = ControllerSettings(backoff=Backoff(first_s=10.0, factor=2.0), idle_s=60.0)
        self.repository = Repository(paths)
        self._controllers: list[Controller] = []

    def submit(self, count: int = 1, **changes: Any) -> list[str]:
        provenance = NewProvenance("test", "/", "host", "3")
        given = {"spec": {}, "spec_hash": "0", "max_attempts": 3, "total_steps": 10, **changes}
        runs = [NewRun(name=f"run {index}", **given) for index in range(count)]
        return list(self.repository.submit(ablation=None, runs=runs, provenance=provenance).run_ids)

    def controller(self, **options: Any) -> Controller:
        made = Controller(self.paths, self.executor, self.settings, clock=self.clock, **options)
        self._controllers.append(made)
        return made

    def rounds(self, controller: Controller, count: int = 1, *, wait: float = 1.0) -> None:
        """Do so many rounds, a little time apart; each looks at everything."""
        for _ in range(count):
            self.clock.wait(wait)
            controller.round()

    def ask(self, kind: RequestKind, run_id: str, **payload: Any) -> None:
        request(self.paths, kind, [run_id], payload or None)

    def outcome(self, run_id: str) -> tuple[str, str | None]:
        with Reader(self.paths) as reader:
            newest = reader.requests(run_id)[-1]
        return newest.status, newest.outcome

    def run(self, run_id: str) -> RunRow:
        with Reader(self.paths) as reader:
            return reader.run(run_id)

    def statuses(self) -> dict[str, str]:
        with Reader(self.paths) as reader:
            return {run.id: run.status for run in reader.runs()}

    def attempts(self, run_id: str) -> list[tuple[str, str | None]]:
        with Reader(self.paths) as reader:
            return [(attempt.status, attempt.reason) for attempt in reader.attempts(run_id)]

    def series(self, run_id: str, key: str) -> dict[int, float]:
        with Reader(self.paths) as reader:
            series = reader.series(run_id, key)
        return dict(zip(series.steps, series.values, strict=True))

    def sql(self, statement: str) -> None:
        """Change the store behind everybody's back."""
        with closing(sqlite3.connect(self.paths.database, isolation_level=None)) as connection:
            connection.execute(statement)

    def close(self) -> None:
        for controller in self._controllers:
            controller.close()
        self.repository.close()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied: migrating costs half a second."""
    paths = HomePaths(tmp_path_factory.mktemp("template"))
    Repository(paths).close()
    return paths.database


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> HomePaths:
    paths = HomePaths(tmp_path / "home")
    paths.root.mkdir()
    shutil.copy(empty_store, paths.database)
    return paths


@pytest.fixture
def lab(home: HomePaths) -> Iterator[Lab]:
    made = Lab(home)
    yield made
    made.close()
