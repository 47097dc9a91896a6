"""The Triton loss on a GPU."""

from __future__ import annotations

import pytest
import torch

from kernels.token_loss import token_loss
from tests.unit.kernels.token_loss_cases import CASES, check, draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "vocab", "members"), [*CASES, (2048, 16, 1), (16384, 16, 8)])
def test_it_is_pytorch_s_own(rows: int, vocab: int, members: int, dtype: torch.dtype) -> None:
    check(rows, vocab, members, dtype=dtype, device="cuda", implementation="triton")


def test_equal_logits_give_equal_bits_and_are_left_alone() -> None:
    logits, targets, scale = draw(2048, 16, 1, dtype=torch.bfloat16, device="cuda")
    before = logits.clone()
    runs = [token_loss(logits, targets, scale, implementation="triton") for _ in range(3)]
    assert torch.equal(logits, before)
    for run in runs[1:]:
        assert torch.equal(run.losses, runs[0].losses)
        assert torch.equal(run.slopes, runs[0].slopes)
