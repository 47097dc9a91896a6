"""The Triton RMS norm as a differentiable `torch.library` op: `torch.ops.mambalab.rms_norm`.

The backward has no atomics: each program sums its rows' share of dweight, and the shares are summed in a fixed order.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels.common.aside import aside, used
from kernels.common.devices import on_device
from kernels.common.triton_reduce import sum_partials
from kernels.rms_norm.triton_kernels import norm_backward, norm_forward

MAX_D = 16384
"""A row must fit one program's registers: 16,384 fp32 values over 512 threads."""

TILE = 2048
FORWARD_VALUES, BACKWARD_VALUES = 512, 1024
"""Values of a tile that a warp takes."""

BACKWARD_PROGRAMS, BACKWARD_STAGES = 264, 3
"""Best of those measured on an H100, 2026-11-24: docs/LOG.md. Longer tiles are not staged: shared memory would not hold them."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refusal(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> str:
    """Why the Triton kernel cannot serve these arguments; empty when it can."""
    for name, tensor in (("x", x), ("weight", weight), ("residual", residual)):
        if tensor is not None and tensor.dtype not in DTYPES:
            return f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}, the kernel takes float32, bfloat16 and float16"
    if x.shape[-1] > MAX_D:
        return f"d is {x.shape[-1]}, the kernel takes at most {MAX_D}"
    return ""


def rms_norm_triton(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return (y, residual): the norm of x + residual in x's dtype, and x + residual in fp32.

    Where gradients are wanted the residual is a tensor of its own even if it equals x, so that what comes back by it is added in
    the norm's kernel.
    """
    keep = torch.is_grad_enabled()
    y, stream, _ = torch.ops.mambalab.rms_norm(x, weight, residual, eps, keep)
    return y, stream if _writes_stream(x, residual, keep) else x


class Tiling(NamedTuple):
    """How rows are dealt to programs; a function of the shape alone, so results do not depend on the card."""

    block_rows: int
    block_d: int
    warps: int


def tiling(d: int, values_per_warp: int) -> Tiling:
    """Tiles of about TILE values: several short rows, or one long one."""
    block_d = triton.next_power_of_2(d)
    block_rows = max(1, TILE // block_d)
    return Tiling(block_rows, block_d, min(16, max(1, block_rows * block_d // values_per_warp)))


def _members(weight: Tensor) -> int:
    """How many parts the rows have, each with a weight of its own: the first dimension of x and of a weight (members, d)."""
    return len(weight) if weight.dim() > 1 else 1


def _strides(weight: Tensor) -> tuple[int, int]:
    return (weight.stride(0), weight.stride(1)) if weight.dim() > 1 else (0, weight.stride(0))


def _writes_stream(x: Tensor, residual: Tensor | None, keep: bool) -> bool:
    return keep or residual is not None or x.dtype != torch.float32


@torch.library.custom_op("mambalab::rms_norm", mutates_args=())
def rms_norm_op(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    y, stream, rstd = _outputs(x, weight, residual, eps, keep)
    d = x.shape[-1]
    flat = x.reshape(-1, d)
    added = flat if residual is None else residual.reshape(-1, d)
    members = _members(weight)
    rows = flat.shape[0] // members
    if rows == 0:
        return y, stream, rstd
    tile = tiling(d, FORWARD_VALUES)
    with on_device(x):
        norm_forward[(triton.cdiv(rows, tile.block_rows), members)](
            flat, weight, added, y, stream, rstd, rows, d, eps, *flat.stride(), *_strides(weight), *added.stride(),
            HAS_RESIDUAL=residual is not None, WRITE_STREAM=_writes_stream(x, residual, keep),
            BLOCK_R=tile.block_rows, BLOCK_D=tile.block_d, num_warps=tile.warps,
        )  # fmt: skip
    return y, stream, rstd


def _outputs(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    written = _writes_stream(x, residual, keep)
    stream = torch.empty(x.shape if written else (0,), dtype=torch.float32, device=x.device)
    return y, stream, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


rms_norm_op.register_fake(_outputs)


@torch.library.custom_op("mambalab::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    dy: Tensor | None,
    dstream: Tensor | None,
    stream: Tensor,
    weight: Tensor,
    rstd: Tensor,
    x_dtype: torch.dtype,
    separate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dresidual, dweight = _gradients(dy, dstream, stream, weight, rstd, x_dtype, separate)
    d = stream.shape[-1]
    flat = stream.reshape(-1, d)
    members = _members(weight)
    rows = flat.shape[0] // members
    if rows == 0:
        return dx, dresidual, dweight.zero_()
    of_y = flat if dy is None else dy.reshape(-1, d)
    of_stream = flat if dstream is None else dstream.reshape(-1, d)
    tile = tiling(d, BACKWARD_VALUES)
    tiles = triton.cdiv(triton.cdiv(rows, tile.block_rows), BACKWARD_PROGRAMS)
    # one tile is not staged: the shared memory for it would keep a program waiting for whatever else runs on its multiprocessor
    stages = BACKWARD_STAGES if tiles > 1 and tile.block_rows * tile.block_d <= TILE else 1
    programs = triton.cdiv(rows, tile.block_rows * tiles)
    partial = torch.empty((programs, members, d), dtype=torch.float32, device=dx.device)
    with on_device(dx):
        norm_backward[(programs, members)](
            of_y, of_stream, flat, weight, rstd, dx, dresidual, partial, rows, d, tiles,
            *of_y.stride(), *of_stream.stride(), *flat.stride(), *_strides(weight),
            HAS_DY=dy is not None, HAS_DSTREAM=dstream is not None, WRITE_DRESIDUAL=separate, STAGES=stages,
            BLOCK_R=tile.block_rows, BLOCK_D=tile.block_d, num_warps=tile.warps,
        )  # fmt: skip
        with aside(weight, partial):
            sum_partials(partial, dweight.view(members, d))
    return dx, dresidual, dweight


def _gradients(
    dy: Tensor | None,
    dstream: Tensor | None,
    stream: Tensor,
    weight: Tensor,
    rstd: Tensor,
    x_dtype: torch.dtype,
    separate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty(stream.shape, dtype=x_dtype, device=stream.device)
    dresidual = torch.empty(stream.shape if separate else (0,), dtype=torch.float32, device=stream.device)
    return dx, dresidual, torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)


_rms_norm_backward.register_fake(_gradients)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, residual, _, keep = inputs
    _, stream, rstd = output
    used(weight)
    ctx.set_materialize_grads(False)
    written = _writes_stream(x, residual, keep)
    ctx.mark_non_differentiable(*((rstd,) if written else (rstd, stream)))
    ctx.save_for_backward(stream if written else x, weight, rstd)
    ctx.x_dtype = x.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype


def _differentiate(ctx: Any, dy: Tensor | None, dstream: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None and dstream is None:
        return None, None, None, None, None
    stream, weight, rstd = ctx.saved_tensors
    separate = ctx.residual_dtype is not None and ctx.x_dtype != torch.float32
    dx, dresidual, dweight = torch.ops.mambalab.rms_norm_backward(
        dy, dstream, stream, weight, rstd, ctx.x_dtype, separate
    )
    if ctx.residual_dtype is None:
        return dx, dweight, None, None, None
    return dx, dweight, (dresidual if separate else dx).to(ctx.residual_dtype), None, None


rms_norm_op.register_autograd(_differentiate, setup_context=_save)
