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
    sizes = [part.shape[2] for part in parts]
    with on_device(rows):
        through_kernel[(triton.cdiv(count, ROWS), members)](
            rows, weight, own, out, *parts, count, inputs, own.shape[1], *sizes,
            *rows.stride()[:2], *weight.stride()[:2], *own.stride()[:2], *out.stride()[:2],
            *(stride for part in parts for stride in part.stride()[:2]),
            BLOCK_R=ROWS, **_columns(sizes), BLOCK_K=_padded(inputs), BLOCK_N=_padded(own.shape[1]), num_warps=4,
        )  # fmt: skip


def through_gradient(
    slopes: Sequence[Tensor], weight: Tensor, own: Tensor, added: Tensor | None, dpart: Tensor, out: Tensor
) -> None:
    """See `kernels.stacked_products.api`."""
    members, count, inputs = out.shape
    sizes = [one.shape[2] for one in (dpart, *slopes[1:])]
    extra = out if added is None else added
    with on_device(out):
        through_gradient_kernel[(triton.cdiv(count, ROWS), members)](
            *slopes, weight, own, extra, dpart, out, count, inputs, own.shape[1], *sizes,
            *(stride for one in slopes for stride in one.stride()[:2]), *weight.stride()[:2], *own.stride()[:2],
            *extra.stride()[:2], *dpart.stride()[:2], *out.stride()[:2], ADDED=added is not None,
            BLOCK_R=ROWS, **_columns(sizes), BLOCK_K=_padded(inputs), BLOCK_N=_padded(own.shape[1]), num_warps=4,
        )  # fmt: skip


def _columns(sizes: Sequence[int]) -> dict[str, int]:
    return {f"BLOCK_{part}": _padded(size) for part, size in enumerate(sizes)}


def _padded(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


# A part's rows of the first product's weight, from row `before` on: [part, input], or turned round.
@triton.jit  # type: ignore[untyped-decorator]
def rows_of_part(  # type: ignore[no-untyped-def]
    weight_ptr, before, size, inputs, wr, TURNED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    m, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    if TURNED:
        m, k = m[None, :], k[:, None]
    else:
        m, k = m[:, None], k[None, :]
    return tl.load(weight_ptr + (before + m) * wr + k, mask=(m < size) & (k < inputs), other=0.0)


# Program (block of rows, member). Each part is a product of its own, as wide as its columns ask: what lies between the products.
@triton.jit  # type: ignore[untyped-decorator]
def through_kernel(  # type: ignore[no-untyped-def]
    rows_ptr, weight_ptr, own_ptr, out_ptr, part0, part1, part2, count, inputs, outputs, size0, size1, size2,
    rm, rr, wm, wr, vm, vr, om, orow, p0m, p0r, p1m, p1r, p2m, p2r,
    BLOCK_R: tl.constexpr, BLOCK_0: tl.constexpr, BLOCK_1: tl.constexpr, BLOCK_2: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    here = row < count
    k, n, m = tl.arange(0, BLOCK_K)[None, :], tl.arange(0, BLOCK_N)[None, :], tl.arange(0, BLOCK_0)[:, None]
    x = tl.load(rows_ptr + member * rm + row * rr + k, mask=here & (k < inputs), other=0.0)
    weight_ptr += member * wm
    first = rows_of_part(weight_ptr, 0, size0, inputs, wr, True, BLOCK_0, BLOCK_K)
    own = tl.load(own_ptr + member * vm + n * vr + m, mask=(n < outputs) & (m < size0), other=0.0)
    second = rows_of_part(weight_ptr, size0, size1, inputs, wr, True, BLOCK_1, BLOCK_K)
    third = rows_of_part(weight_ptr, size0 + size1, size2, inputs, wr, True, BLOCK_2, BLOCK_K)
    between = tl.dot(x, first).to(x.dtype)
    values = tl.dot(between, own)
    tl.store(out_ptr + member * om + row * orow + n, values.to(out_ptr.dtype.element_ty), mask=here & (n < outputs))
    m = tl.arange(0, BLOCK_0)[None, :]
    tl.store(part0 + member * p0m + row * p0r + m, between, mask=here & (m < size0))
    m = tl.arange(0, BLOCK_1)[None, :]
    tl.store(part1 + member * p1m + row * p1r + m, tl.dot(x, second).to(x.dtype), mask=here & (m < size1))
    m = tl.arange(0, BLOCK_2)[None, :]
    tl.store(part2 + member * p2m + row * p2r + m, tl.dot(x, third).to(x.dtype), mask=here & (m < size2))


# Program (block of rows, member).
@triton.jit  # type: ignore[untyped-decorator]
def through_gradient_kernel(  # type: ignore[no-untyped-def]
    dout_ptr, slope1, slope2, weight_ptr, own_ptr, added_ptr, dpart_ptr, out_ptr, count, inputs, outputs, size0, size1, size2,
    d0m, d0r, d1m, d1r, d2m, d2r, wm, wr, vm, vr, am, ar, pm, pr, om, orow, ADDED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_0: tl.constexpr, BLOCK_1: tl.constexpr, BLOCK_2: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    here = row < count
    k, n = tl.arange(0, BLOCK_K)[None, :], tl.arange(0, BLOCK_N)
    m0, m1, m2 = (
        tl.arange(0, BLOCK_0)[None, :],
        tl.arange(0, BLOCK_1)[None, :],
        tl.arange(0, BLOCK_2)[None, :],
    )
    n_row, n_column = n[None, :], n[:, None]
    dout = tl.load(dout_ptr + member * d0m + row * d0r + n_row, mask=here & (n_row < outputs), other=0.0)
    own = tl.load(own_ptr + member * vm + n_column * vr + m0, mask=(n_column < outputs) & (m0 < size0), other=0.0)
    second = tl.load(slope1 + member * d1m + row * d1r + m1, mask=here & (m1 < size1), other=0.0)
    third = tl.load(slope2 + member * d2m + row * d2r + m2, mask=here & (m2 < size2), other=0.0)
    weight_ptr += member * wm
    weight0 = rows_of_part(weight_ptr, 0, size0, inputs, wr, False, BLOCK_0, BLOCK_K)
    weight1 = rows_of_part(weight_ptr, size0, size1, inputs, wr, False, BLOCK_1, BLOCK_K)
    weight2 = rows_of_part(weight_ptr, size0 + size1, size2, inputs, wr, False, BLOCK_2, BLOCK_K)
    inside = here & (k < inputs)
    if ADDED:  # asked for here, or its way from memory would follow the products
        added = tl.load(added_ptr + member * am + row * ar + k, mask=inside, other=0.0)
    dpart = tl.dot(dout.to(own.dtype), own).to(own.dtype)
    tl.store(dpart_ptr + member * pm + row * pr + m0, dpart, mask=here & (m0 < size0))
    total = tl.dot(dpart, weight0)
    total = tl.dot(second.to(own.dtype), weight1, total)
    total = tl.dot(third.to(own.dtype), weight2, total)
    if ADDED:
        total += added.to(tl.float32)
    tl.store(out_ptr + member * om + row * orow + k, total.to(out_ptr.dtype.element_ty), mask=inside)
