"""Evaluation measures the model and leaves it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from workers.models import build_model
from workers.specs import RunSpec
from workers.tasks import build_task
from workers.training.evaluation import evaluate
from workers.training.precision import Placement

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import MakeSpec

CPU = Placement(torch.device("cpu"), 1, "fp32", "test")


def measure(spec: RunSpec, **train: int) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(spec.model, build_task(spec.task).vocab_size)
    metrics = evaluate(model, build_task(spec.task), spec.train.model_copy(update=train), CPU)
    assert metrics is not None
    return metrics


@pytest.mark.parametrize(("batches", "size"), [(1, 24), (3, 8), (12, 2), (24, 1)])
def test_how_the_stream_is_cut_into_batches_does_not_matter(make_spec: MakeSpec, batches: int, size: int) -> None:
    spec = make_spec()
    expected = measure(spec, eval_batches=2, eval_batch_size=12)
    got = measure(spec, eval_batches=batches, eval_batch_size=size)
    assert got == pytest.approx(expected, rel=1e-6)  # sums of fp32 losses in another order


def test_without_a_size_of_its_own_the_batch_is_the_training_batch(make_spec: MakeSpec) -> None:
    assert measure(make_spec(batch_size=6)) == measure(make_spec(batch_size=3), eval_batch_size=6)


@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_and_random_numbers_stay_as_they_were(make_spec: MakeSpec, training: bool) -> None:
    spec = make_spec(dropout=0.5)
    model = build_model(spec.model, 6).train(training)
    before = torch.get_rng_state()
    first = evaluate(model, build_task(spec.task), spec.train, CPU)
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert evaluate(model, build_task(spec.task), spec.train, CPU) == first  # no dropout


def test_a_stop_between_batches_gives_no_half_result(make_spec: MakeSpec) -> None:
    spec = make_spec(eval_batches=3)
    answers = iter([False, True])
    model = build_model(spec.model, 6).train()
    assert evaluate(model, build_task(spec.task), spec.train, CPU, should_stop=lambda: next(answers)) is None
    assert model.training
