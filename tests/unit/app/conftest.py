"""A store with a bit of everything, and the command line called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.main import run
from storage.home import HomePaths
from storage.queries import Reader
from storage.records import AttemptEnd, NewAblation, NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
from storage.status import AttemptStatus
from workers.jobs.submission import SubmitOptions

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nZeroDivisionError: one over nothing\n'
PROVENANCE = NewProvenance(
    command="mambalab submit demo",
    directory="/work",
    hostname="box",
    python="3.11.7",
    versions={"torch": "2.13.0"},
    git_sha="abc123",
    git_dirty=True,
    git_diff="- a\n+ b\n",
)


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout, parsed."""
        return json.loads(self.stdout)


Call = Callable[..., Outcome]


@dataclass(frozen=True)
class Lab:
    """A filled store. `runs` are the ablation's: s6 with seeds 0 and 1, then s4d with seeds 0 and 1."""

    paths: HomePaths
    ablation: str
    runs: tuple[str, ...]
    single: str


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HomePaths:
    """An empty folder to work in, with its store's place."""
    monkeypatch.delenv("MAMBALAB_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return HomePaths(tmp_path / ".mambalab")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line; words are strings."""

    def invoke(*words: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(list(words))
        told = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), told.out, told.err)

    return invoke


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[SubmitOptions]:
    """What controllers would have been started with."""
    wanted: list[SubmitOptions] = []
    monkeypatch.setattr("workers.jobs.submission.ensure_controller", lambda paths, options: wanted.append(options))
    return wanted


@pytest.fixture
def lab(home: HomePaths) -> Lab:
    """An ablation with a completed (twice), a failed and a queued run, and a running single run."""
    with Repository(home) as store:
        done = store.submit(
            ablation=NewAblation(
                name="demo",
                question="Does selection matter?",
                spec={"name": "demo"},
                metric="valid/accuracy",
                direction="max",
                secondary=("valid/loss",),
                axes=("model.inner",),
                seeds=(0, 1),
            ),
            runs=[_new_run(index, inner, seed) for index, inner in enumerate(("s6", "s4d")) for seed in (0, 1)],
            provenance=PROVENANCE,
        )
        single = store.submit(
            ablation=None, runs=[_new_run(0, "s6", 7, name="alone", axes=False)], provenance=PROVENANCE
        )
        for run_id, accuracy in zip(done.run_ids, (0.99, 0.97), strict=False):
            _execute(store, run_id, accuracy, AttemptEnd(AttemptStatus.COMPLETED, 110.0, reason="steps", step=500))
        _execute(
            store,
            done.run_ids[2],
            0.25,
            AttemptEnd(
                AttemptStatus.FAILED, 110.0, reason="error", error="ZeroDivisionError: one", traceback=TRACEBACK
            ),
        )
        _execute(store, single.run_ids[0], 0.5, None)
    assert done.ablation_id is not None
    return Lab(home, done.ablation_id, done.run_ids, single.run_ids[0])


@pytest.fixture
def reader(lab: Lab) -> Iterator[Reader]:
    """The filled store, open to read."""
    with Reader(lab.paths) as reader:
        yield reader


def _new_run(index: int, inner: str, seed: int, *, name: str = "demo", axes: bool = True) -> NewRun:
    return NewRun(
        name=name,
        spec={"model": {"inner": inner, "d_state": 16}, "seed": seed},
        spec_hash=f"{index}-{seed}",
        trial_index=index,
        trial_label=inner if axes else "",
        axis_values={"model.inner": inner} if axes else {},
        axis_labels={"model.inner": inner} if axes else {},
        seed=seed,
        total_steps=1000,
        max_attempts=3,
    )


def _execute(store: Repository, run_id: str, accuracy: float, end: AttemptEnd | None) -> None:
    number = store.begin_attempt(run_id, executor="inline", now=100.0)
    assert number == 1
    batch = RecordBatch(
        rows=[
            (101.0, 250, {"valid/accuracy": accuracy / 2, "valid/loss": 2.0}),
            (102.0, 500, {"valid/accuracy": accuracy}),
        ],
        notes=[(101.0, "hardware", {"device": "cpu"})],
        cursor=10,
        heartbeat_at=102.0,
    )
    assert store.record(run_id, number, batch)
    if end is not None:
        assert store.finish_attempt(run_id, number, end)
