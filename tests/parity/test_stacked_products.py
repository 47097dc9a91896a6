"""Gradients of several models' small weights on a GPU, whose rows are cut among programs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.stacked_products import weight_gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def drawn(members: int, count: int, columns: int, *, side_by_side: bool) -> Tensor:
    shape = (count, members, columns) if side_by_side else (members, count, columns)
    values = torch.randn(shape, device="cuda").to(torch.bfloat16)
    return values.transpose(0, 1) if side_by_side else values


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("members", "count"), [(8, 2048), (32, 2048), (3, 700), (2, 5)])
@pytest.mark.parametrize(("sizes", "columns"), [((128, 128), 64), ((4, 16, 16), 128), ((128,), 4), ((16,), 64)])
def test_a_weight_s_gradient(
    sizes: tuple[int, ...], columns: int, members: int, count: int, side_by_side: bool
) -> None:
    torch.manual_seed(0)
    lefts = [drawn(members, count, size, side_by_side=side_by_side) for size in sizes]
    rows = drawn(members, count, columns, side_by_side=not side_by_side)
    outs = [torch.full((members, sum(sizes), columns), torch.nan, device="cuda") for _ in range(2)]
    for out in outs:
        weight_gradient(lefts, rows, out)
    left = torch.cat(lefts, 2).double().transpose(1, 2)
    bound = 2**-23 * count * (left.abs() @ rows.double().abs())  # a unit of the last place for each row
    assert ((outs[0] - left @ rows.double()).abs() <= bound).all()
    assert torch.equal(outs[0], outs[1])
