"""Two products after one another in Triton, the narrow result of the first in registers; and the way back, with a sum."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from kernels.common.devices import on_device

ROWS = 64
"""Rows of a program."""


def through(rows: Tensor, weight: Tensor, own: Tensor, out: Tensor, parts: Sequence[Tensor]) -> None:
    """See `kernels.stacked_products.api`."""
    members, count, inputs = rows.shape
    first, second, third = (part.shape[2] for part in parts)
    with on_device(rows):
        through_kernel[(triton.cdiv(count, ROWS), members)](
            rows, weight, own, out, *parts, count, inputs, own.shape[1], first, first + second, first + second + third,
            *rows.stride()[:2], *weight.stride()[:2], *own.stride()[:2], *out.stride()[:2],
            *(stride for part in parts for stride in part.stride()[:2]),
            BLOCK_R=ROWS, BLOCK_M=_padded(weight.shape[1]), BLOCK_K=_padded(inputs), BLOCK_N=_padded(own.shape[1]),
            num_warps=4,
        )  # fmt: skip


def through_gradient(
    slopes: Sequence[Tensor], weight: Tensor, own: Tensor, added: Tensor | None, dpart: Tensor, out: Tensor
) -> None:
    """See `kernels.stacked_products.api`."""
    members, count, inputs = out.shape
    first, second, third = dpart.shape[2], slopes[1].shape[2], slopes[2].shape[2]
    extra = out if added is None else added
    with on_device(out):
        through_gradient_kernel[(triton.cdiv(count, ROWS), members)](
            *slopes, weight, own, extra, dpart, out, count, inputs, own.shape[1], first, first + second, first + second + third,
            *(stride for one in slopes for stride in one.stride()[:2]), *weight.stride()[:2], *own.stride()[:2],
            *extra.stride()[:2], *dpart.stride()[:2], *out.stride()[:2],
            ADDED=added is not None, BLOCK_R=ROWS, BLOCK_M=_padded(weight.shape[1]), BLOCK_K=_padded(inputs),
            BLOCK_N=_padded(own.shape[1]), num_warps=4,
        )  # fmt: skip


def _padded(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


# Program (block of rows, member). The columns between the products are those of all three parts: the second product's weight
# has zeros where they are not the first's.
@triton.jit  # type: ignore[untyped-decorator]
def through_kernel(  # type: ignore[no-untyped-def]
    rows_ptr, weight_ptr, own_ptr, out_ptr, part0, part1, part2, count, inputs, outputs, end0, end1, end2,
    rm, rr, wm, wr, vm, vr, om, orow, p0m, p0r, p1m, p1r, p2m, p2r,
    BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    here = row[:, None] < count
    k, m, n = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    x = tl.load(rows_ptr + member * rm + row[:, None] * rr + k[None, :], mask=here & (k[None, :] < inputs), other=0.0)
    weight = tl.load(
        weight_ptr + member * wm + m[None, :] * wr + k[:, None],
        mask=(m[None, :] < end2) & (k[:, None] < inputs),
        other=0.0,
    )
    own = tl.load(
        own_ptr + member * vm + n[None, :] * vr + m[:, None],
        mask=(n[None, :] < outputs) & (m[:, None] < end0),
        other=0.0,
    )
    between = tl.dot(x, weight).to(x.dtype)
    column = m[None, :]
    tl.store(part0 + member * p0m + row[:, None] * p0r + column, between, mask=here & (column < end0))
    tl.store(
        part1 + member * p1m + row[:, None] * p1r + (column - end0), between,
        mask=here & (column >= end0) & (column < end1),
    )  # fmt: skip
    tl.store(
        part2 + member * p2m + row[:, None] * p2r + (column - end1), between,
        mask=here & (column >= end1) & (column < end2),
    )  # fmt: skip
    values = tl.dot(between, own)
    place = out_ptr + member * om + row[:, None] * orow + n[None, :]
    tl.store(place, values.to(out_ptr.dtype.element_ty), mask=here & (n[None, :] < outputs))


# Program (block of rows, member).
@triton.jit  # type: ignore[untyped-decorator]
def through_gradient_kernel(  # type: ignore[no-untyped-def]
    dout_ptr, slope1, slope2, weight_ptr, own_ptr, added_ptr, dpart_ptr, out_ptr, count, inputs, outputs, end0, end1, end2,
    d0m, d0r, d1m, d1r, d2m, d2r, wm, wr, vm, vr, am, ar, pm, pr, om, orow,
    ADDED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    here = row[:, None] < count
    k, m, n = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    column = m[None, :]
    dout = tl.load(
        dout_ptr + member * d0m + row[:, None] * d0r + n[None, :], mask=here & (n[None, :] < outputs), other=0.0
    )
    own = tl.load(
        own_ptr + member * vm + n[:, None] * vr + column, mask=(n[:, None] < outputs) & (column < end0), other=0.0
    )
    second = tl.load(
        slope1 + member * d1m + row[:, None] * d1r + (column - end0),
        mask=here & (column >= end0) & (column < end1), other=0.0,
    )  # fmt: skip
    third = tl.load(
        slope2 + member * d2m + row[:, None] * d2r + (column - end1),
        mask=here & (column >= end1) & (column < end2), other=0.0,
    )  # fmt: skip
    weight = tl.load(
        weight_ptr + member * wm + m[:, None] * wr + k[None, :],
        mask=(m[:, None] < end2) & (k[None, :] < inputs),
        other=0.0,
    )
    inside = here & (k[None, :] < inputs)
    dpart = tl.dot(dout.to(own.dtype), own).to(own.dtype)
    tl.store(dpart_ptr + member * pm + row[:, None] * pr + column, dpart, mask=here & (column < end0))
    between = tl.where(column < end0, dpart, tl.where(column < end1, second.to(own.dtype), third.to(own.dtype)))
    total = tl.dot(between, weight)
    if ADDED:
        total += tl.load(added_ptr + member * am + row[:, None] * ar + k[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    place = out_ptr + member * om + row[:, None] * orow + k[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=inside)
