"""What lies between two layers of several models on a GPU, in one kernel each way, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.stacked_products import Back, Before, Kept, seam, seam_gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

EPS = 1e-5


def drawn(members: int, count: int, columns: int, *, side_by_side: bool) -> Tensor:
    shape = (count, members, columns) if side_by_side else (members, count, columns)
    values: Tensor = torch.randn(shape, device="cuda").to(torch.bfloat16)
    return values.transpose(0, 1) if side_by_side else values


def weight(members: int, outputs: int, inputs: int) -> Tensor:
    values: Tensor = torch.randn(members, outputs, inputs, device="cuda") * inputs**-0.5
    return values.to(torch.bfloat16)


def off(found: Tensor, expected: Tensor) -> float:
    """Return how far a tensor is from what it should be, as a share of that."""
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize(("members", "count"), [(8, 2048), (3, 70), (1, 5)])
@pytest.mark.parametrize(("width", "inputs", "sizes"), [(64, 128, (128, 128)), (64, 128, (16,)), (20, 50, (7, 40))])
def test_a_seam_and_the_way_back(
    width: int, inputs: int, sizes: tuple[int, ...], members: int, count: int, in_front: bool, side_by_side: bool
) -> None:
    torch.manual_seed(0)
    residual = torch.randn(members, count, width, device="cuda")
    norm = torch.randn(members, width + 3, device="cuda")[:, :width]
    weights = [weight(members, size, width) for size in sizes]
    before = None
    if in_front:
        before = Before(drawn(members, count, inputs, side_by_side=side_by_side), weight(members, width, inputs))
    outs = [torch.full_like(drawn(members, count, size, side_by_side=side_by_side), torch.nan) for size in sizes]
    stream = torch.full_like(residual, torch.nan) if in_front else None
    kept = Kept(
        torch.full_like(residual, torch.nan, dtype=torch.bfloat16),
        torch.full((members, count), torch.nan, device="cuda"),
    )
    seam(residual, before, norm, EPS, weights, outs, stream, kept)
    unkept = [torch.full_like(out, torch.nan) for out in outs]
    seam(residual, before, norm, EPS, weights, unkept, torch.empty_like(residual) if in_front else None, None)
    # without a product in front the compiler may add a row's squares up in another order where less is kept
    if in_front:
        assert all(torch.equal(one, other) for one, other in zip(outs, unkept, strict=True))

    one = [torch.full_like(out[:1], torch.nan) for out in outs]  # a member has the same bits in whatever company
    front = None if before is None else Before(before.rows[:1], before.weight[:1])
    spare = torch.empty_like(residual[:1]) if in_front else None
    seam(residual[:1], front, norm[:1], EPS, [weight[:1] for weight in weights], one, spare, None)
    assert all(torch.equal(out[:1], alone) for out, alone in zip(unkept, one, strict=True))

    slopes = [drawn(members, count, size, side_by_side=side_by_side) for size in sizes]
    dstream = torch.randn_like(residual)
    found = [torch.full_like(residual, torch.nan) for _ in range(2)]
    backs = [None if before is None else way_back(before) for _ in found]
    shares = [
        seam_gradient(slopes, weights, dstream, residual if stream is None else stream, kept.rstd, norm, back, out)
        for back, out in zip(backs, found, strict=True)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(shares[0], shares[1])

    leaves = [one.double().requires_grad_() for one in (residual, norm, *(before or ()))]
    total = leaves[0] if before is None else leaves[0] + leaves[2] @ leaves[3].transpose(1, 2)
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + EPS) * leaves[1][:, None]
    products = [normed @ one.double().transpose(1, 2) for one in weights]
    torch.autograd.backward([total, *products], [dstream.double(), *(slope.double() for slope in slopes)])
    half = 2**-8  # what rounding to bfloat16 costs at most; an intermediate that is rounded costs it once more
    if stream is not None:
        assert off(stream, total.detach()) < half
    for out, other, expected in zip(outs, unkept, products, strict=True):
        assert off(out, expected.detach()) < 2 * half
        assert off(other, expected.detach()) < 2 * half
    assert off(kept.normed, normed.detach()) < half
    gradients = [one.grad for one in leaves]
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert off(found[0], gradients[0]) < (half if in_front else 1e-5)
    assert off(shares[0].sum(0), gradients[1]) < (half if in_front else 1e-5)
    if backs[0] is not None:
        assert gradients[2] is not None
        assert torch.equal(backs[0].dadded, found[0].to(torch.bfloat16))
        assert off(backs[0].drows, gradients[2]) < 2 * half


def way_back(before: Before) -> Back:
    members, count, _ = before.rows.shape
    dadded = before.rows.new_full((members, count, before.weight.shape[1]), torch.nan)
    return Back(before.weight, dadded, torch.full_like(before.rows, torch.nan))
