"""What `mambalab bench train` trains: shapes, and at each of them models of equal size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workers.specs import InductionHeadsSpec, ModelSpec, RunSpec, SelectiveCopyingSpec, TaskSpec, TrainSpec
from workers.tasks import Batch, Task, build_task
from workers.tasks.base import SyntheticTask
from workers.training import bench_official
from workers.training.measuring import Steps
from workers.training.precision import Placement

_ENSEMBLES = (8, 16, 32)  # seeds at once; 8 of them are to make five times the runs an hour of single ones
_SCAN_OPERATIONS = 9  # a state and position, forward


@dataclass(frozen=True, slots=True)
class Case:
    """A shape to train at: a spec, and for a vocabulary that no task has its size."""

    name: str
    note: str
    spec: RunSpec
    vocab_size: int | None = None

    def task(self) -> Task:
        """Return the task, or random tokens of the vocabulary."""
        task = build_task(self.spec.task)
        if self.vocab_size is None:
            return task
        return _RandomTokens(self.vocab_size, task.seqlen)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained at a case's shape, and how; `members` runs of it at once as an ensemble.

    Another library's model brings the `rig` that trains it, under PyTorch's own settings.
    """

    name: str
    capture: str
    change: Callable[[ModelSpec], ModelSpec] = lambda model: model
    rig: Callable[[RunSpec, Placement, Task], Steps] | None = None
    members: int = 1


def cases(*, gpu: bool) -> list[Case]:
    """Return the shapes; on a CPU only the smallest."""
    tiny = ModelSpec(d_model=64, n_layer=2, dt_rank=16, tie_embeddings=False)
    induction = InductionHeadsSpec(seqlen=256, vocab=16)
    # Gu & Dao 2023 (arXiv 2312.00752), E.1: neither decay nor clipping, Adam
    first = Case("induction-heads", "8 x 256, width 64, 2 layers", _spec(tiny, induction, 8, clip_grad_norm=0.0))
    if not gpu:
        return [first]
    copying = SelectiveCopyingSpec(context=4096, memorize=16, vocab=16)
    large = ModelSpec(d_model=768, n_layer=24)
    text = InductionHeadsSpec(seqlen=2048)  # for its length alone
    return [
        first,
        Case("selective-copying", "64 x 4112, width 64, 2 layers", _spec(tiny, copying, 64)),
        Case("lm-130m", "8 x 2048, width 768, 24 layers", _spec(large, text, 8, weight_decay=0.1), 50280),
    ]


def subjects(case: Case, *, gpu: bool) -> list[Subject]:
    """Return what is trained at a case's shape: on a GPU with captured steps and with eager ones."""
    twin = _transformer_of_130m if case.vocab_size else _transformer_of_equal_size
    found = []
    for capture in ("auto", "off") if gpu else ("off",):
        found += [Subject("mambalab", capture), Subject("Transformer, SDPA", capture, twin)]
    if gpu and isinstance(case.spec.task, InductionHeadsSpec) and case.vocab_size is None:
        found += [Subject(f"mambalab, {members} seeds at once", "auto", members=members) for members in _ENSEMBLES]
    if gpu and bench_official.installed():
        found += [Subject(bench_official.NAME, capture, rig=bench_official.OfficialRig) for capture in ("auto", "off")]
    return sorted(found, key=lambda subject: subject.capture == "off")  # the slow ones last


def forward_operations(model: nn.Module, spec: ModelSpec, seqlen: int) -> float:
    """Return the floating-point operations a token of a forward pass, as this module counts them."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    weights += sum(value.numel() for name, value in model.named_parameters() if name.endswith("dt_weight"))
    rest = 0.0
    for layer in spec.layers():
        if layer.mixer == "attention":
            rest += 2 * seqlen * layer.d_model  # two products over half of the positions
        elif layer.inner != "hyena":
            rest += _SCAN_OPERATIONS * layer.expand * layer.d_model * layer.d_state
    return 2.0 * weights + rest


def _spec(model: ModelSpec, task: TaskSpec, batch_size: int, **train: Any) -> RunSpec:
    settings = TrainSpec(steps=10**9, batch_size=batch_size, log_every=10, **train)
    return RunSpec(model=model, task=task, train=settings)


def _transformer_of_equal_size(model: ModelSpec) -> ModelSpec:
    """Attention's 4 and the MLP's 4 squares of d_model a layer: Mamba's 6, and its states, which weigh in at this width."""
    return model.model_copy(update={"mixer": "attention", "mlp_ratio": 2})


def _transformer_of_130m(model: ModelSpec) -> ModelSpec:
    """Half as many layers with an MLP of ratio 4, that is 12 squares in place of twice 6; heads of 64, as GPT-3's."""
    return model.model_copy(
        update={"mixer": "attention", "mlp_ratio": 4, "n_layer": model.n_layer // 2, "n_heads": model.d_model // 64}
    )


class _RandomTokens(SyntheticTask):
    """Uniform tokens of any vocabulary, each to be predicted: for the work alone."""

    name = "random tokens"

    def __init__(self, vocab_size: int, seqlen: int) -> None:
        self.vocab_size, self.seqlen = vocab_size, seqlen

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch."""
        shape = (batch_size, self.seqlen + 1)
        tokens = torch.randint(0, self.vocab_size, shape, generator=generator, device=device)
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def describe(self, batch: Batch) -> str:
        """Return the first sequence's tokens as numbers."""
        return " ".join(map(str, batch.inputs[0].tolist()))
