"""A store with a real controller, real executors and real workers, for the tests of the jobs room."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from storage.control import request
from storage.home import HomePaths
from storage.queries import Reader
from storage.rows import AttemptRow, RunRow
from storage.status import RequestKind
from workers.ablation import build_ablation, plan_runs
from workers.jobs.cluster import ClusterRecord, end_cluster, prepare_environment, start_head
from workers.jobs.detach import forget_ended
from workers.jobs.lock import read_record
from workers.jobs.process import ProcessId
from workers.jobs.shutdown import shut_down
from workers.jobs.submission import SubmitOptions, controller_alive, ensure_controller, submit_ablation
from workers.jobs.worker import claimed_by

TRIAL, ENSEMBLE = "tests.e2e.jobs_trials:named", "tests.e2e.jobs_trials:together"
DEADLINE_S = 90.0  # for what takes a second on an idle machine
KEYS = ("train/loss", "train/twice")


class JobsLab:
    """One store. `options` say how its controller runs attempts."""

    def __init__(self, root: Path, executor: str, **options: Any) -> None:
        self.paths = HomePaths(root)
        self.options = SubmitOptions(
            command="test",
            executor=executor,
            cpus=2,
            **{"trial": TRIAL, "ensemble": ENSEMBLE, "idle_s": 300.0, "grace_s": 10.0, **options},
        )

    def submit(self, trial: str = "count", *, seeds: Sequence[int] = (0,), **baseline: Any) -> list[str]:
        """Queue an ablation of two learning rates and start the controller where there is none."""
        train = {"steps": 40, "stop_metric": trial, **baseline.pop("train", {})}
        axes = [{"key": "train.lr", "values": [0.1, 0.2]}] if baseline.pop("axes", True) else []
        resources = {"gpus": 0.0, **baseline.pop("resources", {})}  # machines with one GPU run these tests too
        baseline |= {"train": train, "resources": resources}
        tree = {"name": "fake", "seeds": list(seeds), "axes": axes, "baseline": baseline}
        spec = build_ablation(tree, source="test")
        run_ids = submit_ablation(self.paths, spec, plan_runs(spec), self.options).run_ids
        self.start()
        return list(run_ids)

    def one(self, trial: str = "count", **baseline: Any) -> str:
        """Queue a single run."""
        (run_id,) = self.submit(trial, axes=False, **baseline)
        return run_id

    def gated(self, step: int, **train: Any) -> dict[str, Any]:
        """Return what makes a run wait before a step, having saved its state at every fifth."""
        return {"train": {"warmup_steps": step, "checkpoint_every": 5, **train}}

    def start(self) -> None:
        """Make sure that a controller lives."""
        ensure_controller(self.paths, self.options)

    def opened(self, run_id: str) -> None:
        """Let a run go on past its gate, at once or once it gets there."""
        self.paths.run_dir(run_id).mkdir(parents=True, exist_ok=True)
        (self.paths.run_dir(run_id) / "go").touch()

    def ask(self, kind: RequestKind, run_id: str) -> None:
        """Ask the controller for something."""
        request(self.paths, kind, [run_id])

    def run(self, run_id: str) -> RunRow:
        """Return a run as stored."""
        with Reader(self.paths) as reader:
            return reader.run(run_id)

    def attempts(self, run_id: str) -> list[AttemptRow]:
        """Return a run's attempts as stored."""
        with Reader(self.paths) as reader:
            return reader.attempts(run_id)

    def wait(self, run_id: str, until: Callable[[RunRow], bool], what: str = "") -> RunRow:
        """Return a run once it is as wanted."""
        deadline = time.monotonic() + DEADLINE_S
        with Reader(self.paths) as reader:
            while True:
                run = reader.run(run_id)
                if until(run):
                    return run
                assert time.monotonic() < deadline, f"{what or until}: {run}\n{self.log}"
                time.sleep(0.02)

    def wait_for(self, run_id: str, *statuses: str) -> RunRow:
        """Return a run once it has one of these statuses."""
        return self.wait(run_id, lambda run: run.status in statuses, f"status {statuses}")

    def at_step(self, run_id: str, step: int) -> RunRow:
        """Return a run once a step of it is stored."""
        return self.wait(run_id, lambda run: run.step >= step, f"step {step}")

    def check_exact(self, run_id: str, steps: int = 40) -> None:
        """Assert that every step of a completed run is stored once, with the value that `count` gives it."""
        run = self.run(run_id)
        assert (run.status, run.step) == ("completed", steps), f"{run}\n{self.log}"
        with Reader(self.paths) as reader:
            series = {key: reader.series(run_id, key) for key in KEYS}
        expected: dict[str, Callable[[int], float]] = {
            "train/loss": lambda step: run.seed + 1 / step,
            "train/twice": lambda step: 2.0 * step,
        }
        for key, found in series.items():
            assert list(found.steps) == list(range(1, steps + 1))
            assert list(found.values) == [expected[key](step) for step in range(1, steps + 1)]

    @property
    def log(self) -> str:
        """What the controller said."""
        return self.paths.controller_log.read_text() if self.paths.controller_log.exists() else ""

    def controller(self) -> ProcessId:
        """Return the controller's process, once it has said which it is."""
        record = eventually(
            lambda: (found := read_record(self.paths)) and ProcessId(found.pid, found.created).alive() and found,
            "the controller's record",
        )
        return ProcessId(record.pid, record.created)

    def kill_controller(self) -> None:
        """End the controller without a word, as kill -9 does."""
        process = self.controller().process()
        assert process is not None
        process.kill()
        eventually(lambda: not controller_alive(self.paths), "the controller's end")

    def worker(self, run_id: str) -> ProcessId:
        """Return the process at work on a run's newest attempt."""
        directory = self.paths.attempt(run_id, self.run(run_id).attempt).directory
        found = eventually(lambda: claimed_by(directory), "the worker's name")
        assert isinstance(found, ProcessId)
        return found

    def down(self) -> list[str]:
        """End everything that belongs to the store, and check that nothing is left."""
        lines = shut_down(self.paths)
        assert not controller_alive(self.paths)
        eventually(
            lambda: processes_of(self.paths) == [], "the end of every process"
        )  # one that idled out is about to go
        forget_ended()
        return lines


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Return what a condition returns once that is true."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def processes_of(paths: HomePaths) -> list[tuple[int, list[str]]]:
    """Return the living processes that have to do with a store: named on their command line or by an open file."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            files = [file.path for file in process.open_files()]
            lives = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
        except (psutil.Error, FileNotFoundError):
            continue
        if lives and any(str(paths.root) in text or str(paths.ray_temp) in text for text in [*words, *files]):
            found.append((process.pid, words[:6]))
    return found


@contextmanager
def lab(root: Path, executor: str, **options: Any) -> Iterator[JobsLab]:
    """Make a store whose processes end with the block."""
    made = JobsLab(root, executor, **options)
    try:
        yield made
    finally:
        made.down()


@contextmanager
def head(root: Path) -> Iterator[ClusterRecord]:
    """Start a Ray head of two CPUs that any number of stores may join; its token is in this process's environment."""
    paths = HomePaths(root)
    paths.root.mkdir(parents=True)
    before = dict(os.environ)
    prepare_environment(paths)
    record = start_head(paths, cpus=2, gpus=0)
    try:
        yield record
    finally:
        left = end_cluster(record)
        os.environ.clear()
        os.environ.update(before)
        assert left == []
        eventually(lambda: processes_of(paths) == [], "the end of every process")


def changed(made: JobsLab, **options: Any) -> JobsLab:
    """Return the same store with other options for the next controller."""
    other = JobsLab(made.paths.root, made.options.executor)
    other.options = replace(made.options, **options)
    return other
