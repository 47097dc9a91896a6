"""The loss with its gradient, in plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from kernels.common.errors import ShapeError, UnsupportedError
from kernels.token_loss import token_loss
from tests.unit.kernels.token_loss_cases import CASES, check, draw


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "vocab", "members"), CASES)
def test_it_is_pytorch_s_own(rows: int, vocab: int, members: int, dtype: torch.dtype) -> None:
    check(rows, vocab, members, dtype=dtype)


def test_rows_that_do_not_count_have_neither_loss_nor_slope() -> None:
    logits, targets, scale = draw(6, 5, 1, dtype=torch.float32)
    found = token_loss(logits, targets, scale)
    assert (found.losses[1::3] == 0).all()
    assert (found.slopes[1::3] == 0).all()
    assert (found.losses[0::3] > 0).all()


def test_wrong_arguments_are_named() -> None:
    logits, targets, scale = draw(6, 5, 1, dtype=torch.float32)
    with pytest.raises(ShapeError, match="logits must have shape"):
        token_loss(logits[0], targets, scale)
    with pytest.raises(ShapeError, match=r"targets must have shape \(rows,\) = \(6,\), got \(5,\)"):
        token_loss(logits, targets[:5], scale)
    with pytest.raises(ShapeError, match="a divisor of 6 rows"):
        token_loss(logits, targets, torch.ones(4))
    with pytest.raises(UnsupportedError, match="targets must have dtype int64"):
        token_loss(logits, targets.int(), scale)
    with pytest.raises(UnsupportedError, match="Triton needs CUDA"):
        token_loss(logits, targets, scale, implementation="triton")
