"""Runs drawn at once: each run's rows are bit for bit those that it draws alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from workers.specs import TaskSpec
from workers.tasks import Batch, Curriculum, Task, build_task
from workers.training.stacked_draws import draw_together, draws_together

CPU = torch.device("cpu")
MQAR: dict[str, Any] = {"name": "mqar", "seqlen": 64, "kv_pairs": (2, 4, 8), "vocab": 64}
TASKS: dict[str, dict[str, Any]] = {
    "induction-heads": {"name": "induction-heads", "seqlen": 24, "vocab": 6, "loss_on": "all"},
    "selective-copying": {"name": "selective-copying", "context": 24, "memorize": 4, "vocab": 8},
    "copying": {"name": "copying", "context": 24, "memorize": 4, "vocab": 8},
    "mqar-mixed": MQAR,
    "mqar-curriculum": {**MQAR, "curriculum": True},
    "associative-recall": {"name": "associative-recall", "pairs": 6},
    "parity": {"name": "parity", "seqlen": 12},
    "modular-arithmetic": {"name": "modular-arithmetic"},
    "text": {"name": "text", "seqlen": 16},
}


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]


def alone(task: Task, generator: torch.Generator, share: float) -> Batch:
    return task.sample_at(generator, 4, CPU, share) if isinstance(task, Curriculum) else task.sample(generator, 4, CPU)


@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.parametrize("tree", TASKS.values(), ids=TASKS)
def test_each_run_draws_what_it_draws_alone(tree: dict[str, Any], share: float) -> None:
    task = build_task(TypeAdapter(TaskSpec).validate_python(tree))
    together = draw_together(task, generators(), 4, CPU, [share] * 3)
    for half, parts in zip(together, zip(*(alone(task, one, share) for one in generators()), strict=True), strict=True):
        assert torch.equal(half, torch.cat(parts))


class Permuted:
    """Draws in another way than row by row."""

    name, vocab_size, seqlen = "permuted", 4, 4

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        tokens = torch.randperm(4 * batch_size, generator=generator, device=device)
        return Batch(tokens, tokens)


class Transposed(Permuted):
    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        tokens = torch.rand(4, batch_size, generator=generator, device=device)
        return Batch(tokens.t(), tokens.t())


@pytest.mark.parametrize("task", [Permuted(), Transposed()], ids=["permuted", "transposed"])
def test_a_task_that_draws_otherwise_is_refused(task: Any) -> None:
    with pytest.raises(NotImplementedError, match="a task draws"):
        draw_together(task, generators(), 3, CPU, [0.0] * 3)
    assert not draws_together(task, CPU)
