"""Checkpoints written while training goes on: what is on disk, when, and what happens when it cannot be written."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from workers.errors import CheckpointError
from workers.specs import RunSpec
from workers.training import MemorySink, RunContext, run_trial
from workers.training.checkpoint import Checkpoint, CheckpointStore
from workers.training.errors import NonFiniteLossError
from workers.training.precision import Placement
from workers.training.saving import saves_beside
from workers.training.snapshot import Snapshot, take_snapshot

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

PATIENCE_S = 30.0


class Writes:
    """Stands in for the store's writing: holds each write up until it is let go, and counts those under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.steps: list[int] = []
        self.threads: list[str] = []
        self.most = self._now = 0
        self.fails: dict[int, Exception] = {}
        self._write = CheckpointStore.write
        monkeypatch.setattr(CheckpointStore, "write", lambda store, *rest: self.write(store, *rest))

    def write(
        self, store: CheckpointStore, step: int, snapshot: Snapshot, spec: RunSpec, state: Mapping[str, Any]
    ) -> Checkpoint:
        self._now += 1
        self.most = max(self.most, self._now)
        self.threads.append(threading.current_thread().name)
        try:
            assert self.go.wait(PATIENCE_S), "nothing went on while a checkpoint was written"
            if step in self.fails:
                raise self.fails[step]
            return self._write(store, step, snapshot, spec, state)
        finally:
            self._now -= 1
            self.steps.append(step)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


class LettingGo(MemorySink):
    """Lets writes go once a step has been logged."""

    def __init__(self, writes: Writes, at: int) -> None:
        super().__init__()
        self._writes, self._at = writes, at

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        super().log(step, metrics)
        if step >= self._at:
            self._writes.go.set()


def test_what_is_on_disk_is_the_same(execute: Execute, make_spec: MakeSpec) -> None:
    runs = [execute(make_spec(checkpoint_every=6, dropout=0.2, async_checkpoints=mode)) for mode in ("on", "off")]
    beside, within = runs
    assert beside.curve() == within.curve()
    assert beside.weights() == within.weights()
    assert [note["step"] for note in beside.sink.facts("checkpoint")] == [6, 12, 18, 20]
    assert beside.sink.facts("checkpoint") == within.sink.facts("checkpoint")
    assert beside.sink.facts("checkpoints") == [{"asynchronous": True}]
    assert within.sink.facts("checkpoints") == [{"asynchronous": False}]
    names = [sorted(path.name for path in (run.folder / "checkpoints").iterdir()) for run in runs]
    assert names == [["step-000018", "step-000020"]] * 2


def test_training_goes_on_meanwhile_and_what_is_written_does_not_change(
    writes: Writes, execute: Execute, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(steps=12, log_every=1, checkpoint_every=8, keep_checkpoints=9, async_checkpoints="on")
    sink = LettingGo(writes, at=11)
    run_trial(spec, RunContext("run", 1, tmp_path, sink))
    assert writes.steps == [8, 12]
    assert writes.threads == ["checkpoint"] * 2
    noted = [kind for kind, _ in sink.notes if kind == "checkpoint"]
    assert len(noted) == 2
    eight = execute(make_spec(steps=8, log_every=1, async_checkpoints="off"))
    folder = tmp_path / "checkpoints" / "step-000008"
    assert (folder / "model.safetensors").read_bytes() + (
        folder / "optimizer.safetensors"
    ).read_bytes() == eight.weights()


def test_one_at_a_time(writes: Writes, execute: Execute, make_spec: MakeSpec) -> None:
    writes.go.set()
    execute(make_spec(steps=9, checkpoint_every=1, async_checkpoints="on"))
    assert writes.steps == list(range(1, 10))
    assert writes.most == 1


@pytest.mark.parametrize("step", [6, 12, 20], ids=["early", "late", "last"])
def test_a_failure_ends_the_run(writes: Writes, execute: Execute, make_spec: MakeSpec, step: int) -> None:
    writes.go.set()
    writes.fails = {step: CheckpointError("no space is left")}
    with pytest.raises(CheckpointError, match="no space is left"):
        execute(make_spec(checkpoint_every=6, async_checkpoints="on"))
    assert writes.steps[-1] == step or step == 6  # the next one may not have been begun


def test_a_failed_run_leaves_no_write_behind(writes: Writes, make_spec: MakeSpec, tmp_path: Path) -> None:
    """The run's own failure is what is raised; that of a checkpoint beside it is told."""
    spec = make_spec(lr=1e30, clip_grad_norm=0.0, log_every=8, checkpoint_every=1, async_checkpoints="on")
    writes.fails = {1: CheckpointError("no space is left")}
    sink = LettingGo(writes, at=2)
    with pytest.raises(NonFiniteLossError):
        run_trial(spec, RunContext("run", 1, tmp_path, sink))
    assert [fact["message"] for fact in sink.facts("warning")] == ["no space is left"]
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def test_rows_are_safe_before_the_checkpoint_is(
    writes: Writes, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run goes on behind the checkpoint's step: a row before it that was lost would never come again."""
    writes.go.set()
    sink, flushed = MemorySink(), dict[int, int]()
    write = Writes.write

    def watched(self: Writes, store: CheckpointStore, step: int, *rest: Any) -> Checkpoint:
        flushed[step] = sink.flushes
        return write(self, store, step, *rest)

    monkeypatch.setattr(Writes, "write", watched)
    run_trial(make_spec(steps=4, checkpoint_every=2, async_checkpoints="on"), RunContext("run", 1, tmp_path, sink))
    assert flushed[2] >= 1
    assert flushed[4] > flushed[2]


def test_a_weight_with_two_names_stays_one() -> None:
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.weight = first.weight
    model = torch.nn.ModuleList([first, second])
    snapshot = take_snapshot(model, torch.optim.AdamW(model.parameters()), apart=True)
    assert snapshot.parameters["0.weight"] is snapshot.parameters["1.weight"]
    assert snapshot.parameters["0.weight"].data_ptr() != first.weight.data_ptr()


@pytest.mark.parametrize(("device", "beside"), [("cpu", False), ("cuda", True)])
def test_on_a_gpu_it_is_the_default(make_spec: MakeSpec, device: str, beside: bool) -> None:
    placement = Placement(torch.device(device), 1, "fp32", "")
    assert saves_beside(make_spec().train, placement) is beside
    assert saves_beside(make_spec(async_checkpoints="on").train, placement)
    assert not saves_beside(make_spec(async_checkpoints="off").train, placement)


KILLED = """
import os, signal, sys
from pathlib import Path
from workers.specs import RunSpec
from workers.training import MemorySink, RunContext, checkpoint, run_trial
published = 0
publish = checkpoint._publish
def killed(temporary, target):
    global published
    published += 1
    if published == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    publish(temporary, target)
checkpoint._publish = killed
run_trial(RunSpec.model_validate_json(sys.argv[1]), RunContext("run", 1, Path(sys.argv[2]), MemorySink()))
"""


def test_killed_while_writing_it_resumes_from_the_checkpoint_before(
    execute: Execute, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(checkpoint_every=4, dropout=0.2, async_checkpoints="on")
    whole = execute(spec)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, spec.model_dump_json(), str(tmp_path)], timeout=120, check=False
    )
    assert died.returncode == -signal.SIGKILL
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left >= {"step-000004", "step-000008"}
    assert [name for name in left if name.startswith(".writing-000012")]
    resumed = execute(spec, folder=tmp_path, attempt=2)
    assert resumed.result.resumed_from == 8
    assert resumed.weights() == whole.weights()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000016", "step-000020"}
