"""Whole models on a GPU: every mixer, inner layer and switch trains and decodes there as on a CPU; whole runs repeat."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.workers.models.cases import SWITCHES
from workers.models import LanguageModel, build_model
from workers.specs import ModelSpec, RunSpec, SelectiveCopyingSpec, TrainSpec
from workers.training import MemorySink, RunContext, run_trial
from workers.training.determinism import reproducible
from workers.training.optim import build_optimizer
from workers.training.precision import Placement

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCAB, BATCH, STEPS = 16, 4, 3
Precision = Literal["fp32", "bf16"]

FACTOR = 3.0
"""How much farther from float64 a GPU may be than a CPU that rounds to the same format. Both make roundings of one size,
independently; autocast places a few of them differently (a fused op rounds its result alone, a chain of ops each link)."""

FLOOR = {"fp32": 8 * torch.finfo(torch.float32).eps, "bf16": torch.finfo(torch.bfloat16).eps}
"""Allowed where the CPU happens to be exact. fp32: a GPU's exp2, logarithm and reciprocal are good to two units each, and a
few of them follow one another; bf16: one rounding, beside which they vanish."""

MORE: dict[str, dict[str, Any]] = {
    "h3-shift-64": {"mixer": "h3", "inner": "s4d"},  # longer than the shift's 64 states
    "h3-shift-64-s6": {"mixer": "h3"},
    "no-gate-hyena": {"mixer": "no-gate", "inner": "hyena"},
    "s6-legs-hybrid": {"pattern": "mamba/s6, attention, h3/hyena, no-gate/s4d", "n_layer": 4, "mlp_ratio": 2},
    "many-states": {"d_state": 64},
}
CASES = SWITCHES | MORE

every_case = pytest.mark.parametrize("case", CASES)
every_precision = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def make_spec(case: str) -> ModelSpec:
    """Return a spec of two layers, 32 wide, with the case's switches set."""
    return ModelSpec.model_validate({"d_model": 32, "d_state": 16, "n_heads": 4, **CASES[case]})


def seqlen_of(case: str) -> int:
    """Return 96, three tiles of the scan; 32 where positions end there."""
    spec = make_spec(case)
    ends = spec.positions == "learned" or spec.hyena_positions == "learned"
    return 32 if ends else 96


def make_model(case: str) -> LanguageModel:
    """Return a model whose every parameter has been moved off its initial value, constants too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(make_spec(case), VOCAB)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1 * float(parameter.abs().mean()) + 1e-3)
    return model


def make_tokens(case: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, VOCAB, (STEPS, BATCH, seqlen_of(case) + 1), generator=generator)


@dataclass(frozen=True)
class Trained:
    """What a few steps gave: losses, the first step's gradients and the last parameters, on the CPU in float64."""

    losses: list[float]
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]


def train(case: str, device: str, precision: Precision, *, double: bool = False) -> Trained:
    """Train as the training loop does."""
    placement = Placement(torch.device(device), 1, precision, "test")
    model = copy.deepcopy(make_model(case)).to(placement.device)
    model = model.double() if double else model
    optimizer = build_optimizer(model, TrainSpec(lr=1e-3))
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    with reproducible(placement):
        for tokens in make_tokens(case).to(placement.device):
            optimizer.zero_grad(set_to_none=True)
            with placement.autocast():
                logits = model(tokens[:, :-1])
            loss = F.cross_entropy(
                logits.flatten(0, 1).to(torch.float64 if double else torch.float32), tokens[:, 1:].flatten()
            )
            torch.autograd.backward(loss)
            gradients = gradients or _doubled(
                (name, p.grad) for name, p in model.named_parameters() if p.grad is not None
            )
            optimizer.step()
            losses.append(loss.item())
    return Trained(losses, gradients, _doubled(model.named_parameters()))


def _doubled(named: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", torch.float64, copy=True) for name, tensor in named}


def distances(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Return |found - exact| / |exact| by name; the size of a tensor counts as a thousandth of the whole's at least."""
    whole = torch.stack([tensor.norm() for tensor in exact.values()]).norm()
    return {name: float((found[name] - exact[name]).norm() / max(exact[name].norm(), whole / 1000)) for name in exact}


@every_case
@every_precision
def test_trains_as_on_a_cpu(case: str, precision: Precision) -> None:
    exact, cpu = train(case, "cpu", "fp32", double=True), train(case, "cpu", precision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gpu = train(case, "cuda", precision)
    assert [str(w.message) for w in caught if "determinis" in str(w.message)] == []
    floor = FLOOR[precision]
    assert gpu.gradients.keys() == exact.gradients.keys()
    ours, theirs = distances(gpu.gradients, exact.gradients), distances(cpu.gradients, exact.gradients)
    far = {name: (error, theirs[name]) for name, error in ours.items() if not error <= FACTOR * theirs[name] + floor}
    assert not far, f"gradients (error on the GPU, on the CPU): {far}"
    for mine, other, truth in zip(gpu.losses, cpu.losses, exact.losses, strict=True):
        assert abs(mine - truth) <= FACTOR * abs(other - truth) + floor * truth, (gpu.losses, cpu.losses, exact.losses)


@every_case
@every_precision
def test_trains_to_the_same_bits_again(case: str, precision: Precision) -> None:
    first, again = train(case, "cuda", precision), train(case, "cuda", precision)
    assert first.losses == again.losses
    assert [name for name, tensor in first.parameters.items() if not torch.equal(tensor, again.parameters[name])] == []


@every_precision
@pytest.mark.parametrize("headdim", [8, 64, 128])
@pytest.mark.parametrize("positions", ["rope", "xpos"])
def test_attention_repeats_where_fused_backward_passes_split_the_keys(
    positions: str, headdim: int, precision: Precision
) -> None:
    spec = ModelSpec.model_validate(
        {"mixer": "attention", "positions": positions, "d_model": 4 * headdim, "n_heads": 4}
    )
    torch.manual_seed(0)
    placement = Placement(torch.device("cuda"), 1, precision, "test")
    model, tokens = build_model(spec, VOCAB).cuda(), torch.randint(0, VOCAB, (2, 2048), device="cuda")

    def gradients() -> tuple[Tensor, ...]:
        with placement.autocast():
            loss = model(tokens).float().square().mean()
        return torch.autograd.grad(loss, list(model.parameters()))

    with reproducible(placement):
        first = gradients()
        for _ in range(4):
            assert all(torch.equal(*pair) for pair in zip(first, gradients(), strict=True))


@every_case
@every_precision
@torch.no_grad()
def test_decodes_as_on_a_cpu(case: str, precision: Precision) -> None:
    """Position by position on the GPU, against the whole sequence at once in float64."""
    model, tokens = make_model(case).eval(), make_tokens(case)[0, :, :12]
    exact = copy.deepcopy(model).double()(tokens)
    with Placement(torch.device("cpu"), 1, precision, "test").autocast():
        cpu = model(tokens).double()
    model = model.cuda()
    state = model.allocate_state(BATCH)
    with Placement(torch.device("cuda"), 1, precision, "test").autocast():
        steps = [model.step(token, state)[0] for token in tokens.cuda().unbind(1)]
    ours, theirs = (
        float((found - exact).norm() / exact.norm()) for found in (torch.stack(steps, dim=1).double().cpu(), cpu)
    )
    assert ours <= FACTOR * theirs + FLOOR[precision], (ours, theirs)


def run_spec(**train: Any) -> RunSpec:
    """Return a small run on the GPU with dropout, of both a recurrent layer and attention."""
    settings = {"steps": 12, "batch_size": 8, "log_every": 3, "eval_every": 5, "eval_batches": 2, "device": "cuda"}
    return RunSpec(
        model=ModelSpec(d_model=32, pattern="mamba, attention", n_heads=4, dropout=0.1),
        task=SelectiveCopyingSpec(context=56, memorize=8, vocab=8),
        train=TrainSpec.model_validate(settings | train),
    )


class StopAfter:
    """Asks for a stop once it was asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def curve(sink: MemorySink) -> dict[tuple[int, str], float]:
    """Every logged value that must repeat exactly: all but rates and memory."""
    return {
        (step, key): value
        for step, row in sink.rows
        for key, value in row.items()
        if not key.endswith("_per_s") and not key.startswith("system/")
    }


def weights(folder: Path, checkpoint: str | None) -> bytes:
    """The final parameters and the optimizer's state, as they stand on disk."""
    assert checkpoint is not None
    return b"".join((folder / checkpoint / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


def test_a_run_stopped_and_resumed_is_the_uninterrupted_run(tmp_path: Path) -> None:
    spec = run_spec(checkpoint_every=4)
    sink, pieces = MemorySink(), MemorySink()
    whole = run_trial(spec, RunContext("whole", 1, tmp_path / "whole", sink))
    for attempt, times in enumerate((3, 6, 1000), start=1):
        context = RunContext("pieces", attempt, tmp_path / "pieces", pieces, StopAfter(times))
        resumed = run_trial(spec, context)
    assert whole.status == resumed.status == "completed"
    assert resumed.resumed_from > 0
    assert curve(pieces) == curve(sink)
    assert weights(tmp_path / "pieces", resumed.checkpoint) == weights(tmp_path / "whole", whole.checkpoint)
    assert sink.facts("hardware")[0]["precision"] == "bf16"
    used = sink.facts("implementation")[0]
    assert used == {op: ["triton"] for op in ("selective_scan", "causal_conv1d", "rms_norm", "token_loss")}


def test_a_run_in_micro_batches_and_with_other_lengths_ends_well(tmp_path: Path) -> None:
    sink = MemorySink()
    spec = run_spec(accumulate=4, eval_lengths=(32, 512))
    result = run_trial(spec, RunContext("run", 1, tmp_path, sink))
    assert result.status == "completed"
    assert {"valid/accuracy@32", "valid/loss@512"} <= result.metrics.keys()
