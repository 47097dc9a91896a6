"""What saves memory and waiting on a GPU changes no number: captured and eager, each beside the run without it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.parity.test_captured_step import ATTENTION, INDUCTION, MAMBA, execute, make
from workers.tasks import bytestream
from workers.training.captured import GraphRecorder
from workers.training.errors import CaptureError
from workers.training.snapshot import Snapshot

if TYPE_CHECKING:
    from tests.parity.test_captured_step import Execute

__all__ = ["execute"]  # a fixture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning"),
]

DRY: dict[str, Any] = {**MAMBA, "dropout": 0.0}
MODELS: dict[str, dict[str, Any]] = {"mamba": DRY, "attention": {**ATTENTION, "dropout": 0.0, "positions": "rope"}}
PRECISIONS = ["fp32", "bf16"]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", ["block", "selective"])
def test_activations_computed_again_are_the_same(
    execute: Execute, mode: str, precision: str, model: dict[str, Any]
) -> None:
    kept = execute(make(model, INDUCTION, capture="on", precision=precision))
    for capture in ("on", "off"):
        again = execute(make(model, INDUCTION, capture=capture, precision=precision, activation_checkpointing=mode))
        assert [fact["mode"] for fact in again.sink.facts("step")] == ["captured" if capture == "on" else "eager"]
        assert again.curve() == kept.curve()
        assert again.state() == kept.state()


def test_with_dropout_they_are_the_same_in_eager_steps_alone(execute: Execute) -> None:
    kept = execute(make(MAMBA, INDUCTION, capture="off"))
    again = execute(make(MAMBA, INDUCTION, capture="auto", activation_checkpointing="block"))
    assert "random state" in str(again.sink.facts("step")[0]["why"])
    assert again.curve() == kept.curve()
    assert again.state() == kept.state()
    with pytest.raises(CaptureError, match="random state"):
        execute(make(MAMBA, INDUCTION, capture="on", activation_checkpointing="block"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_fused_loss_is_deterministic_and_captured(execute: Execute, precision: str, tied: bool) -> None:
    model = {**DRY, "tie_embeddings": tied}
    captured, eager, plain = (
        execute(make(model, INDUCTION, capture=capture, precision=precision, fused_loss=fused))
        for capture, fused in (("on", "on"), ("off", "on"), ("on", "off"))
    )
    assert captured.sink.facts("memory")[0]["loss"] == "chunked"
    if eager.sink.facts("memory")[0]["loss"] == "chunked":  # where liger-kernel is installed, it takes the eager steps
        assert captured.curve() == eager.curve()
        assert captured.state() == eager.state()
    rounding = 1e-3 if precision == "fp32" else 5e-2
    found, expected = (
        {(step, key): value for step, key, value in run.curve() if step <= 10} for run in (captured, plain)
    )
    assert found == pytest.approx(expected, rel=rounding)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_large_vocabulary_s_gradients_are_those_of_the_plain_loss(precision: str) -> None:
    """Error against float64, at most twice that of the plain loss and a floor of rounding."""
    from torch.nn import functional as F

    from workers.training.fused_loss import chunked_loss

    generator = torch.Generator("cuda").manual_seed(0)
    exact = [torch.randn(rows, 64, generator=generator, device="cuda", dtype=torch.float64) for rows in (4097, 20000)]
    targets = torch.randint(20000, (4097,), generator=generator, device="cuda")
    targets[::3] = -100
    scale = (targets >= 0).sum().reciprocal()

    def gradients(*, fused: bool, dtype: torch.dtype, autocast: bool) -> list[torch.Tensor]:
        hidden, weight = (one.detach().to(dtype, copy=True).requires_grad_() for one in exact)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            if fused:
                loss = chunked_loss(hidden, weight, targets, scale, measure=False)
                total = loss.total
            else:
                logits = F.linear(hidden, weight)
                total = F.cross_entropy(logits.to(dtype), targets, ignore_index=-100, reduction="none").sum()
        if fused:
            torch.autograd.backward(loss.root)
        else:
            torch.autograd.backward(total, scale.to(total.dtype))
        assert hidden.grad is not None
        assert weight.grad is not None
        return [total.detach().double(), hidden.grad.double(), weight.grad.double()]

    right = gradients(fused=False, dtype=torch.float64, autocast=False)
    bf16 = precision == "bf16"
    plain = gradients(fused=False, dtype=torch.float32, autocast=bf16)
    fused = gradients(fused=True, dtype=torch.float32, autocast=bf16)
    for reference, one, other in zip(right, plain, fused, strict=True):
        error, allowed = (float((value - reference).norm() / reference.norm()) for value in (other, one))
        assert error <= 2 * allowed + 1e-7


def test_checkpoints_written_meanwhile_are_those_of_their_step(execute: Execute) -> None:
    beside, within = (
        execute(make(MAMBA, INDUCTION, checkpoint_every=7, async_checkpoints=mode)) for mode in ("on", "off")
    )
    assert beside.sink.facts("checkpoints") == [{"asynchronous": True}]
    assert beside.curve() == within.curve()
    assert beside.state() == within.state()
    for name in ("step-000028", "step-000030"):
        mine, theirs = (run.folder / "checkpoints" / name for run in (beside, within))
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (mine / file).read_bytes() == (theirs / file).read_bytes()


def test_a_checkpoint_being_written_breaks_no_recording_off(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing thread asks things of CUDA while a graph is recorded."""
    writing, recording, done = threading.Event(), threading.Event(), threading.Event()
    trace, wait = GraphRecorder._trace, Snapshot.wait

    def watched_trace(self: GraphRecorder, *rest: Any, **named: Any) -> None:
        if writing.is_set():
            recording.set()
        trace(self, *rest, **named)
        if writing.is_set():
            assert done.wait(10)

    def watched_wait(self: Snapshot) -> None:
        writing.set()
        if recording.wait(10):
            for _ in range(10):
                wait(self)
                torch.empty(1 << 22, pin_memory=True)
        done.set()

    monkeypatch.setattr(GraphRecorder, "_trace", watched_trace)
    monkeypatch.setattr(Snapshot, "wait", watched_wait)
    ran = execute(make(DRY, INDUCTION, capture="on", async_checkpoints="on", checkpoint_every=4, log_every=3))
    assert recording.is_set()
    assert [fact["mode"] for fact in ran.sink.facts("step")] == ["captured"]


def test_batches_out_of_host_memory_are_those_out_of_the_gpu_s(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"name": "text", "seqlen": 64}
    resident = execute(make(MAMBA, text, capture="off"))
    monkeypatch.setattr(bytestream, "_RESIDENT_LIMIT", 1000)
    ahead, waiting = (execute(make(MAMBA, text, capture="off", prefetch=mode)) for mode in ("auto", "off"))
    assert ahead.sink.facts("memory")[0]["prefetch"] is True
    assert waiting.sink.facts("memory")[0]["prefetch"] is False
    assert ahead.curve() == waiting.curve() == resident.curve()
    assert ahead.state() == waiting.state() == resident.state()
