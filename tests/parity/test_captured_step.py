"""Steps replayed from CUDA graphs are the eager ones, bit for bit: losses, norms, accuracies, parameters, random state.

Every run here logs at 1, 10, 20 and 30, evaluates at 15 and 30 and saves at 24, so that rows, evaluations and checkpoints cut
the replays at odd places. Dropout is on where nothing else is said: it draws from the generator that checkpoints keep.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from workers.specs import RunSpec
from workers.tasks import Batch
from workers.tasks.induction_heads import InductionHeadsTask
from workers.training import MemorySink, RunContext, RunResult, run_trial
from workers.training.captured import GraphRecorder
from workers.training.context import never_stop
from workers.training.errors import CaptureError, NonFiniteLossError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning"),
]

MAMBA: dict[str, Any] = {"d_model": 64, "n_layer": 2, "dropout": 0.1}
ATTENTION: dict[str, Any] = {**MAMBA, "mixer": "attention", "n_heads": 4, "mlp_ratio": 2}
INDUCTION: dict[str, Any] = {"name": "induction-heads", "seqlen": 256, "vocab": 16}
MQAR: dict[str, Any] = {"name": "mqar", "seqlen": 64, "kv_pairs": (2, 4, 8), "vocab": 64}

MODELS: dict[str, dict[str, Any]] = {
    "mamba": MAMBA,
    "s4d": {**MAMBA, "inner": "s4d"},
    "attention-rope": {**ATTENTION, "positions": "rope"},
    "attention-learned": {**ATTENTION, "positions": "learned", "norm": "layer", "max_positions": 256},
    "h3": {**MAMBA, "mixer": "h3", "inner": "s4d", "s4d_tied": True, "h3_shift": "conv"},
    "hyena": {**MAMBA, "mixer": "h3", "inner": "hyena", "h3_shift": "conv-qkv", "d_conv": 3},
}
TASKS: dict[str, dict[str, Any]] = {
    "selective-copying": {"name": "selective-copying", "context": 240, "memorize": 16, "vocab": 16},
    "mqar-mixed": MQAR,
    "mqar-curriculum": {**MQAR, "curriculum": True},
    "associative-recall": {"name": "associative-recall", "pairs": 24},
    "parity": {"name": "parity", "seqlen": 40},
    "modular-arithmetic": {"name": "modular-arithmetic"},
    "text": {"name": "text", "seqlen": 64},
}


def make(model: dict[str, Any] = MAMBA, task: dict[str, Any] = INDUCTION, **train: Any) -> RunSpec:
    settings = {"steps": 30, "batch_size": 8, "lr": 3e-3, "schedule": "cosine", "warmup_steps": 5, "weight_decay": 0.1}
    every = {"log_every": 10, "eval_every": 15, "eval_batches": 2, "checkpoint_every": 24}
    tree = {
        "model": model,
        "task": task,
        "train": {**settings, **every, "precision": "fp32", "device": "cuda", **train},
    }
    return RunSpec.model_validate(tree)


class Executed:
    """A run's result, rows and folder."""

    def __init__(self, result: RunResult, sink: MemorySink, folder: Path) -> None:
        self.result, self.sink, self.folder = result, sink, folder

    def curve(self) -> list[tuple[int, str, float]]:
        return curve(self.sink)

    def state(self) -> tuple[bytes, bytes, dict[str, str]]:
        """Parameters, optimizer and random state at the end, as they stand on disk."""
        assert self.result.checkpoint is not None
        folder = self.folder / self.result.checkpoint
        random = json.loads((folder / "state.json").read_text())["random"]
        return (folder / "model.safetensors").read_bytes(), (folder / "optimizer.safetensors").read_bytes(), random


class Execute(Protocol):
    def __call__(self, spec: RunSpec, folder: Path | None = ..., should_stop: Callable[[], bool] = ...) -> Executed: ...


def curve(sink: MemorySink) -> list[tuple[int, str, float]]:
    """What must repeat exactly, in the order logged."""
    return [
        (step, key, value)
        for step, row in sink.rows
        for key, value in row.items()
        if not key.endswith("_per_s") and not key.startswith("system/")
    ]


@pytest.fixture
def execute(tmp_path_factory: pytest.TempPathFactory) -> Execute:
    def run(spec: RunSpec, folder: Path | None = None, should_stop: Callable[[], bool] = never_stop) -> Executed:
        folder = folder or tmp_path_factory.mktemp("run")
        sink = MemorySink()
        return Executed(run_trial(spec, RunContext("run", 1, folder, sink, should_stop)), sink, folder)

    return run


def assert_captured_is_eager(execute: Execute, model: dict[str, Any], task: dict[str, Any], **train: Any) -> None:
    captured = execute(make(model, task, capture="on", **train))
    assert [fact["mode"] for fact in captured.sink.facts("step")] == ["captured"]
    eager = execute(make(model, task, capture="off", **train))
    assert [fact["mode"] for fact in eager.sink.facts("step")] == ["eager"]
    assert captured.curve() == eager.curve()
    assert captured.state() == eager.state()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_captured_model_is_the_eager_one(execute: Execute, model: dict[str, Any]) -> None:
    assert_captured_is_eager(execute, model, INDUCTION)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_captured_task_is_the_eager_one(execute: Execute, task: dict[str, Any]) -> None:
    """Attention compiles nothing, so these are about the data alone."""
    assert_captured_is_eager(execute, {**ATTENTION, "positions": "rope"}, task)


@pytest.mark.parametrize(
    "train",
    [{"precision": "bf16"}, {"accumulate": 4}, {"clip_grad_norm": 0.0}, {"log_every": 1}, {"log_every": 17}],
    ids=["bf16", "accumulate", "no-clipping", "every-row", "odd-rows"],
)
def test_captured_in_another_setting_it_is_the_eager_one(execute: Execute, train: dict[str, Any]) -> None:
    assert_captured_is_eager(execute, MAMBA, INDUCTION, **train)


@pytest.mark.parametrize(("first", "second"), [("on", "off"), ("off", "on"), ("on", "on")])
@pytest.mark.parametrize("stop", [2, 5])
def test_resumed_in_another_mode_it_is_the_uninterrupted_run(
    execute: Execute, first: str, second: str, stop: int
) -> None:
    whole = execute(make(capture="off"))
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > stop

    began = execute(make(capture=first), should_stop=should_stop)
    assert began.result.status == "stopped"
    ended = execute(make(capture=second), folder=began.folder)
    assert ended.result.resumed_from == began.result.step
    rows = {(step, key): value for step, key, value in (*began.curve(), *ended.curve())}
    assert rows == {(step, key): value for step, key, value in whole.curve()}
    assert ended.state() == whole.state()


def test_it_stops_where_the_eager_run_stops(execute: Execute) -> None:
    settings: dict[str, Any] = {"stop_at": 100.0, "stop_metric": "valid/loss", "eval_every": 7}
    captured, eager = (execute(make(capture=mode, **settings)) for mode in ("on", "off"))
    assert captured.result.reason == eager.result.reason == "stop_at"
    assert captured.result.step == eager.result.step == 7
    assert captured.curve() == eager.curve()


def test_it_diverges_where_the_eager_run_diverges(tmp_path: Path) -> None:
    seen = []
    for mode in ("on", "off"):
        sink = MemorySink()
        spec = make(capture=mode, lr=1e30, schedule="constant", warmup_steps=0, clip_grad_norm=0.0)
        with pytest.raises(NonFiniteLossError) as caught:
            run_trial(spec, RunContext("run", 1, tmp_path / mode, sink))
        seen.append((caught.value.step, str(caught.value), repr(curve(sink))))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("watched", [True, False], ids=["noticed", "unnoticed"])
def test_what_cannot_be_captured_goes_on_eagerly(
    execute: Execute, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """Unnoticed, the recording itself breaks off, which must leave the random generators in order."""
    plain = execute(make(capture="off"))
    sample = InductionHeadsTask.sample

    def impatient(self: InductionHeadsTask, generator: torch.Generator, size: int, device: torch.device | str) -> Batch:
        batch = sample(self, generator, size, device)
        assert int(batch.inputs.sum()) >= 0  # waits for the device in every step
        return batch

    monkeypatch.setattr(InductionHeadsTask, "sample", impatient)
    if not watched:
        monkeypatch.setattr(GraphRecorder, "watch", lambda _: Blind())
    with pytest.raises(CaptureError, match="train.capture is 'on', but"):
        execute(make(capture="on"))
    fallen_back = execute(make(capture="auto"))
    (fact,) = fallen_back.sink.facts("step")
    assert fact["mode"] == "eager"
    assert ("test_captured_step.py" if watched else "recording a step failed") in str(fact["why"])
    assert len(fallen_back.sink.facts("warning")) == 1
    assert fallen_back.curve() == plain.curve()
    assert fallen_back.state() == plain.state()


class Blind:
    """Watches nothing."""

    def __enter__(self) -> tuple[str, ...]:
        return ()

    def __exit__(self, *_: object) -> None: ...


def test_batches_come_from_the_seed_and_the_step(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two equal curves could both be of one batch, seen again and again."""
    drawn: list[Tensor] = []
    sample = InductionHeadsTask.sample

    def watched(self: InductionHeadsTask, generator: torch.Generator, size: int, device: torch.device | str) -> Batch:
        batch = sample(self, generator, size, device)
        if not torch.cuda.is_current_stream_capturing():
            drawn.append(batch.inputs.clone())
        return batch

    monkeypatch.setattr(InductionHeadsTask, "sample", watched)
    losses = execute(make(capture="on", log_every=1, lr=1e-9, eval_every=0)).sink.series("train/loss")
    assert len(set(losses.values())) == len(losses) == 30
    assert len({tuple(one.flatten().tolist()) for one in drawn}) >= 3
