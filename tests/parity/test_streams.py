"""Draws by seeds on a GPU are those of PyTorch's generators there, for every shape of draw and every task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from kernels.streams import Stream, draw_integers, draw_uniform
from tests.unit.workers.training.test_stacked_draws import TASKS
from workers.specs import TaskSpec
from workers.tasks import build_task
from workers.training.stacked_draws import draw_counted, draw_together

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SEEDS = (0, 5, 2**63 - 1)


def generators() -> list[torch.Generator]:
    return [torch.Generator("cuda").manual_seed(seed) for seed in SEEDS]


@pytest.mark.parametrize("count", [1, 8, 2048, 300_000, 1_500_001])
def test_numbers(count: int) -> None:
    """Three draws one after another; the longest are longer than PyTorch's threads at work at once."""
    stream, own = Stream.of(torch.tensor(SEEDS, device="cuda")), generators()
    for low, high in ((0, 15), (-7, 2**20), (3, 2**40)):
        found = draw_integers(stream, low, high, (count,), torch.int64)
        expected = [torch.randint(low, high, (count,), generator=one, device="cuda") for one in own]
        assert torch.equal(found, torch.stack(expected))
    for dtype in (torch.float32, torch.float64):
        found = draw_uniform(stream, (count,), dtype)
        expected = [torch.rand(count, generator=one, device="cuda", dtype=dtype) for one in own]
        assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("tree", TASKS.values(), ids=TASKS)
def test_tasks(tree: dict[str, Any]) -> None:
    task, device = build_task(TypeAdapter(TaskSpec).validate_python(tree)), torch.device("cuda")
    found = draw_counted(task, torch.Generator(device), torch.tensor(SEEDS, device=device), 4, [0.5] * 3)
    expected = draw_together(task, generators(), 4, device, [0.5] * 3)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
