"""Small products on Triton's interpreter, in the layouts that ensembles ask for, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.stacked_products import (
    add_up,
    embed,
    embedding_gradient,
    spread,
    through,
    through_gradient,
    weight_gradient,
)
from kernels.stacked_products.triton_op import DEPTH, rows_of_a_share

pytestmark = pytest.mark.interpreter

MEMBERS, ROWS = 3, 150


def laid(members: int, rows: int, columns: int, *, side_by_side: bool, dtype: torch.dtype = torch.float16) -> Tensor:
    """Return numbers (members, rows, columns) that lie in memory as (members, rows) or as (rows, members)."""
    shape = (rows, members, columns) if side_by_side else (members, rows, columns)
    values = torch.randint(-4, 5, shape).to(dtype)  # every product and sum is exact
    return values.transpose(0, 1) if side_by_side else values


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("inner", "sizes"), [(64, (128, 128)), (20, (4, 16, 16)), (128, (50,)), (3, (130, 7))])
def test_a_product_is_cut_along_its_outputs(inner: int, sizes: tuple[int, ...], side_by_side: bool) -> None:
    x = laid(MEMBERS, ROWS, inner, side_by_side=not side_by_side, dtype=torch.float32)
    weight = laid(MEMBERS, sum(sizes), inner, side_by_side=False)
    outs = [laid(MEMBERS, ROWS, size, side_by_side=side_by_side) for size in sizes]
    fed = torch.empty(MEMBERS, ROWS, inner, dtype=weight.dtype)
    spread(x, weight, outs, fed)
    expected = (x @ weight.float().transpose(1, 2)).half()
    assert torch.equal(torch.cat(outs, 2), expected)
    assert torch.equal(fed, x.half())


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("sizes", "columns"), [((128, 128), 64), ((4, 16, 16), 128), ((128,), 4)])
def test_products_are_added_up(sizes: tuple[int, ...], columns: int, side_by_side: bool) -> None:
    lefts = [laid(MEMBERS, ROWS, size, side_by_side=side_by_side) for size in sizes]
    weight = laid(MEMBERS, sum(sizes), columns, side_by_side=False)
    out = laid(MEMBERS, ROWS, columns, side_by_side=side_by_side, dtype=torch.float32)
    add_up(lefts, torch.split(weight, list(sizes), 1), out)
    assert torch.equal(out, torch.cat(lefts, 2).float() @ weight.float())


@pytest.mark.parametrize(("sizes", "columns"), [((128, 128), 64), ((4, 16, 16), 128), ((16,), 20)])
def test_a_weight_s_gradient(sizes: tuple[int, ...], columns: int) -> None:
    lefts = [laid(MEMBERS, ROWS, size, side_by_side=True) for size in sizes]
    rows = laid(MEMBERS, ROWS, columns, side_by_side=False)
    out = torch.full((MEMBERS, sum(sizes), columns), torch.nan)
    weight_gradient(lefts, rows, out)
    assert torch.equal(out, torch.cat(lefts, 2).float().transpose(1, 2) @ rows.float())


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("count", [1, 5, 128, 129, 700])
def test_a_weight_s_gradient_is_cut_along_its_rows(count: int, side_by_side: bool) -> None:
    lefts = [laid(MEMBERS, count, size, side_by_side=side_by_side) for size in (4, 16, 16)]
    rows = laid(MEMBERS, count, 20, side_by_side=not side_by_side)
    storage = torch.full((MEMBERS, 36, 24), torch.nan)
    out = storage[:, :, :20]
    weight_gradient(lefts, rows, out)
    assert torch.equal(out, torch.cat(lefts, 2).float().transpose(1, 2) @ rows.float())
    assert storage[:, :, 20:].isnan().all()


def test_a_weight_s_gradient_has_the_same_bits_each_time() -> None:
    left, rows = torch.randn(MEMBERS, 700, 40).half(), torch.randn(MEMBERS, 700, 70).half()
    first, second = torch.empty(MEMBERS, 40, 70), torch.empty(MEMBERS, 40, 70)
    weight_gradient([left], rows, first)
    weight_gradient([left], rows, second)
    assert torch.equal(first, second)
    expected = left.double().transpose(1, 2) @ rows.double()
    assert (first - expected).abs().max() < 1e-6 * (left.double().abs().transpose(1, 2) @ rows.double().abs()).max()


@pytest.mark.parametrize(
    ("count", "programs", "shares"), [(2048, 16, 16), (2048, 32, 8), (2048, 256, 1), (100, 1, 1), (129, 16, 2)]
)
def test_shares_of_rows_fill_the_device_and_no_more(count: int, programs: int, shares: int) -> None:
    share = rows_of_a_share(count, programs)
    assert -(-count // share) == shares
    assert share % DEPTH == 0


@pytest.mark.parametrize(("vocab", "width"), [(16, 64), (5, 20)])
def test_an_embedding_and_its_gradient(vocab: int, width: int) -> None:
    tokens = torch.randint(vocab, (MEMBERS, ROWS))
    weight = laid(MEMBERS, vocab, width, side_by_side=False, dtype=torch.float32)
    member = torch.arange(MEMBERS)[:, None]
    assert torch.equal(embed(tokens, weight), weight[member, tokens])
    assert torch.equal(embed(tokens[:1].expand(MEMBERS, -1), weight), weight[:, tokens[0]])  # all read the same
    dy = laid(MEMBERS, ROWS, width, side_by_side=False, dtype=torch.float32)
    expected = torch.zeros_like(weight).index_put((member.expand_as(tokens), tokens), dy, accumulate=True)
    assert torch.equal(embedding_gradient(tokens, dy, vocab), expected)


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("inner", "sizes", "outputs"), [(128, (4, 16, 16), 128), (20, (3, 8, 5), 50)])
def test_two_products_after_one_another(
    inner: int, sizes: tuple[int, ...], outputs: int, added: bool, side_by_side: bool
) -> None:
    rows = laid(MEMBERS, ROWS, inner, side_by_side=side_by_side)
    weight = torch.randint(-1, 2, (MEMBERS, sum(sizes), inner)).half()
    own = torch.randint(-1, 2, (MEMBERS, outputs, sizes[0])).half()
    parts = [torch.empty(MEMBERS, ROWS, size).half() for size in sizes]
    out = laid(MEMBERS, ROWS, outputs, side_by_side=side_by_side)
    through(rows, weight, own, out, parts)
    assert torch.equal(torch.cat(parts, 2), (rows.float() @ weight.float().transpose(1, 2)).half())
    assert torch.equal(out, (parts[0].float() @ own.float().transpose(1, 2)).half())
    slopes = [laid(MEMBERS, ROWS, size, side_by_side=side_by_side) for size in (outputs, *sizes[1:])]
    extra = laid(MEMBERS, ROWS, inner, side_by_side=side_by_side) if added else None
    dpart, dx = torch.empty_like(parts[0]), torch.empty_like(rows)
    through_gradient(slopes, weight, own, extra, dpart, dx)
    expected = slopes[0].float() @ own.float()
    assert torch.equal(dpart, expected.half())
    total = torch.cat((expected, slopes[1].float(), slopes[2].float()), 2) @ weight.float()
    assert torch.equal(dx, (total if extra is None else total + extra.float()).half())
