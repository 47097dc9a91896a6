"""Products of several models' small weights on a GPU: gradients whose rows are cut among programs, and two after one another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.stacked_products import through, through_gradient, weight_gradient

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


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("members", "count", "inner", "sizes", "outputs"),
    [(8, 2048, 128, (4, 16, 16), 128), (2, 133, 20, (3, 8, 5), 50), (1, 64, 128, (8, 28, 28), 96)],
)
def test_two_products_after_one_another(
    members: int, count: int, inner: int, sizes: tuple[int, ...], outputs: int, added: bool, side_by_side: bool
) -> None:
    """Small whole numbers, whose sums are exact in fp32: what is written is these, rounded once."""
    torch.manual_seed(0)

    def whole(*shape: int, most: int) -> Tensor:
        return torch.randint(-most, most + 1, shape, device="cuda").to(torch.bfloat16)

    def rows_of(columns: int, most: int) -> Tensor:
        shape = (count, members, columns) if side_by_side else (members, count, columns)
        values = whole(*shape, most=most)
        return values.transpose(0, 1) if side_by_side else values

    rows, weight, own = (
        rows_of(inner, 4),
        whole(members, sum(sizes), inner, most=1),
        whole(members, outputs, sizes[0], most=1),
    )
    parts = [torch.full((members, count, size), torch.nan, device="cuda", dtype=torch.bfloat16) for size in sizes]
    out = torch.full_like(rows_of(outputs, 1), torch.nan)
    through(rows, weight, own, out, parts)
    assert torch.equal(torch.cat(parts, 2), (rows.double() @ weight.double().mT).bfloat16())
    assert torch.equal(out, (parts[0].double() @ own.double().mT).bfloat16())
    slopes = [rows_of(size, 4) for size in (outputs, *sizes[1:])]
    extra = rows_of(inner, 4) if added else None
    dpart, dx = torch.full_like(parts[0], torch.nan), torch.full_like(rows, torch.nan)
    through_gradient(slopes, weight, own, extra, dpart, dx)
    assert torch.equal(dpart, (slopes[0].double() @ own.double()).bfloat16())
    total = torch.cat((dpart.double(), slopes[1].double(), slopes[2].double()), 2) @ weight.double()
    assert torch.equal(dx, (total if extra is None else total + extra.double()).bfloat16())
