"""`run_trial` from start to end: what it reports, what it refuses, and how it fails."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from workers.errors import CheckpointError, SpecError
from workers.models import LanguageModel, build_model
from workers.specs import ModelSpec
from workers.training import (
    MemorySink,
    NonFiniteLossError,
    RunContext,
    RunOutOfMemoryError,
    error_code,
    run_trial,
    trial,
)

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

TRAIN_METRICS = {
    "train/loss",
    "train/accuracy",
    "train/grad_norm",
    "train/lr",
    "train/steps_per_s",
    "train/tokens_per_s",
    "train/tokens_seen",
    "system/peak_memory_mb",
}


def test_rows_come_after_the_first_step_every_log_every_and_after_the_last(
    execute: Execute, make_spec: MakeSpec
) -> None:
    ran = execute(make_spec(steps=10, log_every=4))
    train = [(step, set(row)) for step, row in ran.sink.rows if "train/loss" in row]
    assert train == [(step, TRAIN_METRICS) for step in (1, 4, 8, 10)]
    assert ran.sink.series("train/tokens_seen")[10] == 10 * 4 * 15
    assert all(value > 0 for value in ran.sink.series("train/steps_per_s").values())


def test_evaluation_comes_every_eval_every_and_at_the_end(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(steps=10, eval_every=4))
    assert list(ran.sink.series("valid/accuracy")) == [4, 8, 10]
    assert ran.result.metrics["valid/accuracy"] == ran.sink.series("valid/accuracy")[10]


def test_the_logged_loss_is_the_mean_since_the_last_row(execute: Execute, make_spec: MakeSpec) -> None:
    every = execute(make_spec(steps=9, log_every=1)).sink.series("train/loss")
    rows = execute(make_spec(steps=9, log_every=4)).sink.series("train/loss")
    assert rows == {
        1: every[1],
        4: math.fsum(every[k] for k in (2, 3, 4)) / 3,
        8: math.fsum(every[k] for k in (5, 6, 7, 8)) / 4,
        9: every[9],
    }


def test_facts_are_noted_once(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(checkpoint_every=8))
    for kind in ("model", "implementation", "hardware", "data"):
        assert len(ran.sink.facts(kind)) == 1, kind
    assert ran.sink.facts("implementation")[0]
    assert ran.sink.facts("checkpoint") == [
        {"step": step, "path": f"checkpoints/step-{step:06d}"} for step in (8, 16, 20)
    ]
    assert ran.sink.flushes > 0


def test_the_loss_falls(execute: Execute, make_spec: MakeSpec) -> None:
    loss = execute(make_spec(steps=60, log_every=20)).sink.series("train/loss")
    assert loss[60] < loss[1]


def test_reaching_stop_at_ends_the_run_early_and_for_good(execute: Execute, make_spec: MakeSpec) -> None:
    spec = make_spec(steps=20, eval_every=4, stop_at=0.0)
    ran = execute(spec)
    assert (ran.result.status, ran.result.reason, ran.result.step) == ("completed", "stop_at", 4)
    again = execute(spec, folder=ran.folder, attempt=2)
    assert (again.result.step, again.result.resumed_from, again.sink.rows) == (4, 4, [])


def test_a_loss_reaches_stop_at_from_above(execute: Execute, make_spec: MakeSpec) -> None:
    never = execute(make_spec(steps=8, eval_every=4, stop_at=0.0, stop_metric="valid/loss"))
    assert never.result.reason == "steps"
    at_once = execute(make_spec(steps=8, eval_every=4, stop_at=99.0, stop_metric="valid/loss"))
    assert at_once.result.step == 4


def test_an_unknown_stop_metric_names_the_known_ones(execute: Execute, make_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match="'valid/bleu', which this task does not measure. It measures: .*valid/loss"):
        execute(make_spec(steps=2, stop_at=1.0, stop_metric="valid/bleu"))


@pytest.mark.parametrize("log_every", [1, 4, 50])
def test_a_diverging_run_names_the_step_and_logs_nan(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    spec = make_spec(steps=20, log_every=log_every, checkpoint_every=3)
    poison_at(7, monkeypatch)
    sink = MemorySink()
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 7 \(lr 0.01, last finite loss \d") as caught:
        run_trial(spec, RunContext("run", 1, tmp_path, sink))
    assert (caught.value.step, error_code(caught.value), caught.value.retryable) == (7, "diverged", False)
    assert math.isnan(sink.series("train/loss")[7])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000003", "step-000006"]


def poison_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the logits NaN in the forward pass of one training step and in those after it."""
    calls = 0

    def poison(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += module.training
        return output * math.nan if calls >= step else output

    def build_poisoned(spec: ModelSpec, vocab_size: int) -> LanguageModel:
        model = build_model(spec, vocab_size)
        model.register_forward_hook(poison)
        return model

    monkeypatch.setattr(trial, "build_model", build_poisoned)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_too_little_memory_has_its_own_code(
    execute: Execute, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(trial, "build_model", fail)
    with pytest.raises(RunOutOfMemoryError, match="train.batch_size 4") as caught:
        execute(make_spec())
    assert error_code(caught.value) == "oom"


def test_another_runs_checkpoint_is_refused_unless_accepted(execute: Execute, make_spec: MakeSpec) -> None:
    first = execute(make_spec(steps=4))
    other = make_spec(steps=8, lr=0.5)
    with pytest.raises(CheckpointError, match="train.lr: 0.01 there, 0.5 here"):
        execute(other, folder=first.folder)
    accepted = execute(other, folder=first.folder, accept_other_spec=True)
    assert (accepted.result.resumed_from, accepted.result.step) == (4, 8)


def test_a_checkpoint_from_before_a_field_was_added_is_accepted(execute: Execute, make_spec: MakeSpec) -> None:
    first = execute(make_spec(steps=4))
    file = first.folder / "checkpoints" / "step-000004" / "state.json"
    state = json.loads(file.read_text())
    del state["spec"]["model"]["dropout"]
    file.write_text(json.dumps({**state, "identity": "of a spec without dropout"}))
    assert execute(make_spec(steps=8), folder=first.folder).result.resumed_from == 4
    with pytest.raises(CheckpointError, match="belongs to another spec"):
        execute(make_spec(steps=8, dropout=0.5), folder=first.folder)


@pytest.mark.parametrize(
    ("error", "code"),
    [(CheckpointError("x"), "checkpoint"), (SpecError("x"), "spec"), (MemoryError(), "oom"), (KeyError("x"), "error")],
)
def test_every_error_has_a_code(error: Exception, code: str) -> None:
    assert error_code(error) == code
