"""The loss of small vocabularies in one kernel: a run and an ensemble with it learn what they learn with PyTorch's own.

On a CPU its plain form stands in for the kernel, which tests/parity/test_token_loss.py has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from workers.models import build_model
from workers.specs import ModelSpec
from workers.tasks import build_task
from workers.training import row_loss
from workers.training.ensemble_update import EnsembleUpdate, Member
from workers.training.optim import build_optimizer
from workers.training.precision import Placement
from workers.training.update import RunUpdate, Update

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import MakeSpec

CPU = torch.device("cpu")
MODEL = ModelSpec(d_model=8, n_layer=1, d_state=4)


def outcomes(make_spec: MakeSpec, members: int, **train: Any) -> Tensor:
    placement, made = Placement(CPU, 1, "fp32", "test"), []
    for seed in range(members):
        spec = make_spec(seed=seed, lr=1e-2, **train).model_copy(update={"model": MODEL})
        task = build_task(spec.task)
        torch.manual_seed(seed)
        model = build_model(spec.model, task.vocab_size)
        made.append(Member(spec, task, model, build_optimizer(model, spec.train), step=0))
    first = made[0]
    update: Update = EnsembleUpdate(made, placement)
    if members == 1:
        update = RunUpdate(
            first.spec, task=first.task, model=first.model, optimizer=first.optimizer, placement=placement
        )
    update.reserve(1)
    rows = []
    for step in range(1, 7):
        update.prepare(range(step, step + 1))
        rows.append(update.outcome(update.compute(update.draw(0), 0, measure=True)))
    return torch.stack(rows)


@pytest.mark.parametrize("train", [{}, {"accumulate": 2}], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("members", [1, 3])
def test_it_is_the_plain_loss(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, members: int, train: dict[str, Any]
) -> None:
    plain = outcomes(make_spec, members, **train)
    asked: list[Tensor] = []

    def serves(logits: Tensor) -> bool:
        asked.append(logits)
        return True

    monkeypatch.setattr(row_loss, "serves", serves)
    torch.testing.assert_close(outcomes(make_spec, members, **train), plain, rtol=1e-4, atol=1e-6)
    assert asked


def test_a_cpu_and_a_large_vocabulary_have_pytorch_s_own() -> None:
    assert not row_loss.serves(torch.ones(2, 3))
