"""What lies between two layers in Triton, in one kernel each way: product, residual addition, norm, and the next products.

A program has whole rows, so that the norm and its gradient need nothing of another; what lies between stays in registers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.devices import on_device
from kernels.stacked_products.api import Back, Before, Kept

ROWS, WARPS = 64, 4
"""Rows of a program, and its warps."""


def seam(
    residual: Tensor,
    before: Before | None,
    norm: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    outs: Sequence[Tensor],
    stream: Tensor | None,
    kept: Kept | None,
) -> None:
    """See `kernels.stacked_products.api`."""
    members, count, width = residual.shape
    rows, own = (residual, norm) if before is None else before
    written = residual if stream is None else stream
    normed, rstd = (residual, norm) if kept is None else kept
    inputs = own.shape[-1]
    with on_device(residual):
        seam_kernel[(triton.cdiv(count, ROWS), members)](
            rows, own, residual, norm, weights[0], weights[-1], written, normed, rstd, outs[0], outs[-1],
            count, width, inputs, outs[0].shape[2], outs[-1].shape[2], eps,
            *rows.stride()[:2], *own.stride()[:2], *residual.stride()[:2], norm.stride(0),
            *weights[0].stride()[:2], *weights[-1].stride()[:2], *outs[0].stride()[:2], *outs[-1].stride()[:2],
            BEFORE=before is not None, STREAM=stream is not None, KEEP=kept is not None, TWO=len(outs) > 1,
            BLOCK_R=ROWS, BLOCK_D=_padded(width), BLOCK_K=_padded(inputs),
            BLOCK_M=_padded(outs[0].shape[2]), BLOCK_N=_padded(outs[-1].shape[2]), num_warps=WARPS,
        )  # fmt: skip


def seam_gradient(
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    dstream: Tensor | None,
    stream: Tensor,
    rstd: Tensor,
    norm: Tensor,
    back: Back | None,
    dresidual: Tensor,
) -> Tensor:
    """See `kernels.stacked_products.api`."""
    members, count, width = stream.shape
    programs = triton.cdiv(count, ROWS)
    partial = torch.empty(programs, members, width, dtype=torch.float32, device=stream.device)
    of_stream = stream if dstream is None else dstream
    own, dadded, drows = (norm, dresidual, dresidual) if back is None else back
    inputs = own.shape[-1]
    with on_device(stream):
        seam_gradient_kernel[(programs, members)](
            slopes[0], slopes[-1], weights[0], weights[-1], of_stream, stream, rstd, norm, own, dadded, drows, dresidual,
            partial, count, width, inputs, slopes[0].shape[2], slopes[-1].shape[2],
            *slopes[0].stride()[:2], *slopes[-1].stride()[:2], *weights[0].stride()[:2], *weights[-1].stride()[:2],
            *of_stream.stride()[:2], *stream.stride()[:2], norm.stride(0), *own.stride()[:2], *drows.stride()[:2],
            BEFORE=back is not None, STREAM=dstream is not None, TWO=len(slopes) > 1,
            BLOCK_R=ROWS, BLOCK_D=_padded(width), BLOCK_K=_padded(inputs),
            BLOCK_M=_padded(slopes[0].shape[2]), BLOCK_N=_padded(slopes[-1].shape[2]), num_warps=WARPS,
        )  # fmt: skip
    return partial


def _padded(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


@triton.jit
def _tile(ptr, row, column, rows, columns, stride):  # type: ignore[no-untyped-def]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    return tl.load(ptr + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _turned(ptr, row, column, rows, columns, stride):  # type: ignore[no-untyped-def]
    inside = (row[None, :] < rows) & (column[:, None] < columns)
    return tl.load(ptr + row[None, :].to(tl.int64) * stride + column[:, None], mask=inside, other=0.0)


@triton.jit
def _write(ptr, values, row, column, rows, columns, stride):  # type: ignore[no-untyped-def]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    place = ptr + row[:, None].to(tl.int64) * stride + column[None, :]
    tl.store(place, values.to(ptr.dtype.element_ty), mask=inside)


# Program (block of rows, member). What the first product gives is rounded as if it had been stored.
@triton.jit  # type: ignore[untyped-decorator]
def seam_kernel(  # type: ignore[no-untyped-def]
    rows_ptr, own_ptr, residual_ptr, norm_ptr, weight0, weight1, stream_ptr, normed_ptr, rstd_ptr, out0, out1,
    count, width, inputs, size0, size1, eps,
    rm, rr, vm, vr, am, ar, nm, w0m, w0r, w1m, w1r, o0m, o0r, o1m, o1r,
    BEFORE: tl.constexpr, STREAM: tl.constexpr, KEEP: tl.constexpr, TWO: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.arange(0, BLOCK_D)
    stream = _tile(residual_ptr + member * am, row, d, count, width, ar).to(tl.float32)
    m = tl.arange(0, BLOCK_M)
    weight = _turned(weight0 + member * w0m, m, d, size0, width, w0r)
    scale = tl.load(norm_ptr + member * nm + d, mask=d < width, other=0.0).to(tl.float32)
    if BEFORE:
        k = tl.arange(0, BLOCK_K)
        rows = _tile(rows_ptr + member * rm, row, k, count, inputs, rr)
        own = _turned(own_ptr + member * vm, d, k, width, inputs, vr)
        stream += tl.dot(rows, own).to(rows.dtype).to(tl.float32)
    place = (member * count + row).to(tl.int64)
    if STREAM:
        _write(stream_ptr + member * count * width, stream, row, d, count, width, width)
    rstd = 1.0 / tl.sqrt(tl.sum(stream * stream, axis=1) / width + eps)
    normed = (stream * rstd[:, None] * scale[None, :]).to(weight.dtype)
    if KEEP:
        _write(normed_ptr + member * count * width, normed, row, d, count, width, width)
        tl.store(rstd_ptr + place, rstd, mask=row < count)
    _write(out0 + member * o0m, tl.dot(normed, weight), row, m, count, size0, o0r)
    if TWO:
        n = tl.arange(0, BLOCK_N)
        weight = _turned(weight1 + member * w1m, n, d, size1, width, w1r)
        _write(out1 + member * o1m, tl.dot(normed, weight), row, n, count, size1, o1r)


# Program (block of rows, member); its share of the norm's gradient goes to partial[program, member]. See `norm_backward`.
@triton.jit  # type: ignore[untyped-decorator]
def seam_gradient_kernel(  # type: ignore[no-untyped-def]
    slope0, slope1, weight0, weight1, dstream_ptr, stream_ptr, rstd_ptr, norm_ptr, own_ptr, dadded_ptr, drows_ptr,
    dresidual_ptr, partial_ptr, count, width, inputs, size0, size1,
    s0m, s0r, s1m, s1r, w0m, w0r, w1m, w1r, dm, dr, sm, sr, nm, vm, vr, rm, rr,
    BEFORE: tl.constexpr, STREAM: tl.constexpr, TWO: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.arange(0, BLOCK_D)
    m = tl.arange(0, BLOCK_M)
    slope = _tile(slope0 + member * s0m, row, m, count, size0, s0r)
    weight = _tile(weight0 + member * w0m, m, d, size0, width, w0r)
    stream = _tile(stream_ptr + member * sm, row, d, count, width, sr).to(tl.float32)
    rstd = tl.load(rstd_ptr + member * count + row, mask=row < count, other=0.0)[:, None]
    scale = tl.load(norm_ptr + member * nm + d, mask=d < width, other=0.0).to(tl.float32)
    dy = tl.dot(slope.to(weight.dtype), weight)
    if TWO:
        n = tl.arange(0, BLOCK_N)
        slope = _tile(slope1 + member * s1m, row, n, count, size1, s1r)
        weight = _tile(weight1 + member * w1m, n, d, size1, width, w1r)
        dy += tl.dot(slope.to(weight.dtype), weight)
    if BEFORE:
        dy = dy.to(weight.dtype).to(tl.float32)
    normed = stream * rstd
    weighted = dy * scale[None, :]
    along = tl.sum(weighted * normed, axis=1)[:, None] / width
    gradient = rstd * (weighted - normed * along)
    share = tl.sum(dy * normed, axis=0)
    partial_ptr += (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * width
    tl.store(partial_ptr + d, share, mask=d < width)
    if STREAM:
        gradient += _tile(dstream_ptr + member * dm, row, d, count, width, dr).to(tl.float32)
    _write(dresidual_ptr + member * count * width, gradient, row, d, count, width, width)
    if BEFORE:
        k = tl.arange(0, BLOCK_K)
        own = _tile(own_ptr + member * vm, d, k, width, inputs, vr)
        added = gradient.to(own.dtype)
        _write(dadded_ptr + member * count * width, added, row, d, count, width, width)
        _write(drows_ptr + member * rm, tl.dot(added, own), row, k, count, inputs, rr)
