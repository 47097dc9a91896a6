"""Small products in Triton: an operand's inner dimension lies whole in a program, so that parts are cut and summed for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from kernels.common.devices import on_device
from kernels.common.triton_reduce import sum_partials

ROWS, COLUMNS = 64, 128
TILE, DEPTH, STAGES = 64, 128, 2
"""Of a weight's gradient: outputs and inputs of a program, rows that it takes at a time, and how many times ahead it loads."""

PROGRAMS, MAX_SHARES = 256, 16
"""Of a weight's gradient: the rows are cut among so many programs at most, and into so many shares."""

SUMMED = 512
"""Numbers of a weight's gradient that one program sums over the shares."""

TOKENS_AT_ONCE = 128
"""Rows of one program of an embedding's gradient."""


def spread(x: Tensor, weight: Tensor, outs: Sequence[Tensor], fed: Tensor | None) -> None:
    """See `kernels.stacked_products.api`."""
    _product([x], [weight.transpose(1, 2)], outs, fed)


def add_up(lefts: Sequence[Tensor], weights: Sequence[Tensor], out: Tensor) -> None:
    """See `kernels.stacked_products.api`."""
    _product(lefts, weights, [out], None)


def _product(lefts: Sequence[Tensor], rights: Sequence[Tensor], outs: Sequence[Tensor], fed: Tensor | None) -> None:
    members, rows, _ = lefts[0].shape
    columns = sum(out.shape[2] for out in outs)
    block = min(COLUMNS, max(16, triton.next_power_of_2(columns)))
    left, right, out = _three(lefts), _three(rights), _three(outs)
    inner = [one.shape[2] for one in left]
    ends = [sum(one.shape[2] for one in outs[: index + 1]) for index in range(3)]
    with on_device(lefts[0]):
        parts_kernel[(triton.cdiv(rows, ROWS), members, triton.cdiv(columns, block))](
            *left, *right, *out, lefts[0] if fed is None else fed, rows, *inner, *ends,
            *(stride for one in left for stride in one.stride()[:2]), *(stride for one in right for stride in one.stride()),
            *(stride for one in out for stride in one.stride()[:2]), *(lefts[0] if fed is None else fed).stride()[:2],
            PARTS=len(lefts), OUTS=len(outs), FED=fed is not None, BLOCK_R=ROWS, BLOCK_N=block,
            K0=_padded(inner[0]), K1=_padded(inner[1]), K2=_padded(inner[2]), num_warps=4,
        )  # fmt: skip


def _three(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [*tensors, *[tensors[0]] * (3 - len(tensors))]


def _padded(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


@triton.jit  # type: ignore[untyped-decorator]
def product_of(  # type: ignore[no-untyped-def]
    left_ptr, right_ptr, row, column, rows, columns, inner, left_row, right_inner, right_column, K: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, K)
    place = left_ptr + row[:, None].to(tl.int64) * left_row + k[None, :]
    left = tl.load(place, mask=(row[:, None] < rows) & (k[None, :] < inner), other=0.0)
    right = tl.load(
        right_ptr + k[:, None] * right_inner + column[None, :] * right_column,
        mask=(k[:, None] < inner) & (column[None, :] < columns),
        other=0.0,
    )
    left = left.to(right.dtype)
    return left, tl.dot(left, right)


@triton.jit  # type: ignore[untyped-decorator]
def store_part(  # type: ignore[no-untyped-def]
    out_ptr, values, row, column, rows, first, end, stride_row, block_first, BLOCK_N: tl.constexpr,
):  # fmt: skip
    if (block_first < end) & (block_first + BLOCK_N > first):
        inside = (row[:, None] < rows) & (column[None, :] >= first) & (column[None, :] < end)
        place = out_ptr + row[:, None].to(tl.int64) * stride_row + (column[None, :] - first)
        tl.store(place, values.to(out_ptr.dtype.element_ty), mask=inside)


# Program (block of rows, member, block of columns): the parts' products, summed; what the columns are cut into goes to up to
# three tensors.
@triton.jit  # type: ignore[untyped-decorator]
def parts_kernel(  # type: ignore[no-untyped-def]
    left0, left1, left2, right0, right1, right2, out0, out1, out2, fed_ptr, rows, inner0, inner1, inner2, end0, end1, end2,
    l0m, l0r, l1m, l1r, l2m, l2r, r0m, r0k, r0n, r1m, r1k, r1n, r2m, r2k, r2n, o0m, o0r, o1m, o1r, o2m, o2r, fm, fr,
    PARTS: tl.constexpr, OUTS: tl.constexpr, FED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    member = tl.program_id(1).to(tl.int64)
    block_first = tl.program_id(2) * BLOCK_N
    column = block_first + tl.arange(0, BLOCK_N)
    left, total = product_of(
        left0 + member * l0m, right0 + member * r0m, row, column, rows, end2, inner0, l0r, r0k, r0n, K=K0
    )
    if FED:  # noqa: SIM102 - not one condition: the first is known when the kernel is compiled
        if block_first == 0:
            k = tl.arange(0, K0)
            place = fed_ptr + member * fm + row[:, None].to(tl.int64) * fr + k[None, :]
            tl.store(place, left, mask=(row[:, None] < rows) & (k[None, :] < inner0))
    if PARTS > 1:
        _, more = product_of(
            left1 + member * l1m, right1 + member * r1m, row, column, rows, end2, inner1, l1r, r1k, r1n, K=K1
        )
        total += more
    if PARTS > 2:
        _, more = product_of(
            left2 + member * l2m, right2 + member * r2m, row, column, rows, end2, inner2, l2r, r2k, r2n, K=K2
        )
        total += more
    store_part(out0 + member * o0m, total, row, column, rows, 0, end0, o0r, block_first, BLOCK_N=BLOCK_N)
    if OUTS > 1:
        store_part(out1 + member * o1m, total, row, column, rows, end0, end1, o1r, block_first, BLOCK_N=BLOCK_N)
    if OUTS > 2:
        store_part(out2 + member * o2m, total, row, column, rows, end1, end2, o2r, block_first, BLOCK_N=BLOCK_N)


def weight_gradient(lefts: Sequence[Tensor], rows: Tensor, out: Tensor) -> None:
    """See `kernels.stacked_products.api`."""
    members, count, columns = rows.shape
    tile = min(TILE, max(16, triton.next_power_of_2(max(one.shape[2] for one in lefts))))
    width = min(TILE, _padded(columns))
    left = _three(lefts)
    ends, blocks = [0, 0, 0], 0
    for index in range(3):
        blocks += triton.cdiv(lefts[index].shape[2], tile) if index < len(lefts) else 0
        ends[index] = blocks
    firsts = [sum(one.shape[2] for one in lefts[:index]) for index in range(3)]
    across = triton.cdiv(columns, width)
    share = rows_of_a_share(count, blocks * across * members)
    shares = max(1, triton.cdiv(count, share))
    whole = shares == 1
    target = out if whole else out.new_empty(shares, *out.shape)
    with on_device(rows):
        weight_kernel[(blocks, across * shares, members)](
            *left, rows, target, count, columns, share, across, *(one.shape[2] for one in left), *ends[:2], *firsts[1:],
            *(stride for one in left for stride in one.stride()[:2]), *rows.stride()[:2],
            0 if whole else target.stride(0), *target.stride()[-3:-1],
            BLOCK_N=tile, BLOCK_K=width, BLOCK_R=DEPTH, num_warps=4, num_stages=STAGES,
        )  # fmt: skip
        if not whole:
            size = out.shape[1] * columns
            sum_shares_kernel[(triton.cdiv(size, SUMMED), members)](
                target, out, size, columns, *out.stride()[:2], SHARES=shares, BLOCK=SUMMED, num_warps=4
            )


def rows_of_a_share(count: int, programs: int) -> int:
    """Return the rows that one of so many programs, times the shares, adds up: whole tiles, by shapes alone."""
    shares = min(max(1, PROGRAMS // programs), MAX_SHARES)
    tiles: int = triton.cdiv(triton.cdiv(count, shares), DEPTH)
    return max(1, tiles) * DEPTH


# Program (block of outputs of some part, share of the rows and block of inputs, member): a share's sum, in fp32.
@triton.jit  # type: ignore[untyped-decorator]
def weight_kernel(  # type: ignore[no-untyped-def]
    left0, left1, left2, rows_ptr, out_ptr, count, columns, share, across, size0, size1, size2, end0, end1, first1, first2,
    l0m, l0r, l1m, l1r, l2m, l2r, rm, rr, oshare, om, orow,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    own = tl.program_id(1) // across
    member = tl.program_id(2).to(tl.int64)
    left, stride, size, first, local = left0 + member * l0m, l0r, size0, 0, block
    if block >= end1:
        left, stride, size, first, local = left2 + member * l2m, l2r, size2, first2, block - end1
    elif block >= end0:
        left, stride, size, first, local = left1 + member * l1m, l1r, size1, first1, block - end0
    n = local * BLOCK_N + tl.arange(0, BLOCK_N)
    k = (tl.program_id(1) % across) * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(own * share, tl.minimum((own + 1) * share, count), BLOCK_R):
        row = (start + tl.arange(0, BLOCK_R)).to(tl.int64)
        dy = tl.load(
            left + row[:, None] * stride + n[None, :], mask=(row[:, None] < count) & (n[None, :] < size), other=0.0
        )
        x = tl.load(
            rows_ptr + member * rm + row[:, None] * rr + k[None, :],
            mask=(row[:, None] < count) & (k[None, :] < columns),
            other=0.0,
        )
        total = tl.dot(tl.trans(dy.to(x.dtype)), x, total)
    place = out_ptr + own.to(tl.int64) * oshare + member * om + (first + n[:, None]) * orow + k[None, :]
    tl.store(place, total, mask=(n[:, None] < size) & (k[None, :] < columns))


# Program (block of numbers, member): the shares' sums, one after another.
@triton.jit  # type: ignore[untyped-decorator]
def sum_shares_kernel(  # type: ignore[no-untyped-def]
    partial_ptr, out_ptr, size, columns, om, orow, SHARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    step = tl.num_programs(1).to(tl.int64) * size
    own = partial_ptr + member * size + column
    total = tl.load(own, mask=inside, other=0.0)
    for share in tl.static_range(1, SHARES):
        total += tl.load(own + share * step, mask=inside, other=0.0)
    tl.store(out_ptr + member * om + (column // columns) * orow + column % columns, total, mask=inside)


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """See `kernels.stacked_products.api`."""
    members, rows = tokens.shape
    width = weight.shape[2]
    out = weight.new_empty(members, rows, width)
    block = triton.next_power_of_2(width)
    at_once = max(1, 2048 // block)
    with on_device(weight):
        embed_kernel[(triton.cdiv(rows, at_once), members)](
            tokens, weight, out, rows, width, tokens.stride(0), *weight.stride()[:2],
            BLOCK_R=at_once, BLOCK_D=block, num_warps=4,
        )  # fmt: skip
    return out


# Program (block of rows, member).
@triton.jit  # type: ignore[untyped-decorator]
def embed_kernel(  # type: ignore[no-untyped-def]
    tokens_ptr, weight_ptr, out_ptr, rows, width, tm, wm, wv, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_D)
    inside = (row[:, None] < rows) & (column[None, :] < width)
    token = tl.load(tokens_ptr + member * tm + row, mask=row < rows, other=0)
    values = tl.load(weight_ptr + member * wm + token[:, None] * wv + column[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + (member * rows + row[:, None]) * width + column[None, :], values, mask=inside)


def embedding_gradient(tokens: Tensor, dy: Tensor, vocab_size: int) -> Tensor:
    """See `kernels.stacked_products.api`."""
    members, rows, width = dy.shape
    shares = triton.cdiv(rows, TOKENS_AT_ONCE)
    partial = dy.new_empty(shares, members, vocab_size * width)
    out = dy.new_empty(members, vocab_size, width)
    with on_device(dy):
        embedding_gradient_kernel[(shares, members)](
            tokens, dy, partial, rows, width, vocab_size, tokens.stride(0), *dy.stride()[:2],
            BLOCK_V=_padded(vocab_size), BLOCK_D=_padded(width), BLOCK_R=16, ROWS=TOKENS_AT_ONCE, num_warps=4,
        )  # fmt: skip
        sum_partials(partial, out.view(members, -1))
    return out


# Program (share of rows, member): a share's sums by token, a product with rows that hold a one each, in fp32.
@triton.jit  # type: ignore[untyped-decorator]
def embedding_gradient_kernel(  # type: ignore[no-untyped-def]
    tokens_ptr, dy_ptr, partial_ptr, rows, width, vocab, tm, dm, dr,
    BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    token = tl.arange(0, BLOCK_V)
    column = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_V, BLOCK_D), tl.float32)
    first = tl.program_id(0) * ROWS
    for start in range(first, first + ROWS, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        own = tl.load(tokens_ptr + member * tm + row, mask=row < rows, other=-1)
        dy = tl.load(
            dy_ptr + member * dm + row[:, None].to(tl.int64) * dr + column[None, :],
            mask=(row[:, None] < rows) & (column[None, :] < width),
            other=0.0,
        )
        one = (token[:, None] == own[None, :]).to(tl.float32)
        total = tl.dot(one, dy.to(tl.float32), total, input_precision="ieee")
    place = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * vocab * width
    inside = (token[:, None] < vocab) & (column[None, :] < width)
    tl.store(partial_ptr + place + token[:, None] * width + column[None, :], total, mask=inside)
