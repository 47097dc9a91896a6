"""The Triton convolution as differentiable `torch.library` ops: `torch.ops.mambalab.causal_conv1d` and `..._update`.

The backward has no atomics: programs write partial sums of dweight and dbias, which are added in a fixed order. How the work
is cut depends on the shape alone, never on the card or on a timing, so the same inputs always give the same bits.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels.causal_conv1d.triton_bwd import conv_backward
from kernels.causal_conv1d.triton_fwd import conv_forward, conv_update
from kernels.causal_conv1d.triton_wide import conv_forward_wide, input_gradient, weight_gradient, window_gradient
from kernels.common.aside import aside, used
from kernels.common.devices import on_device
from kernels.common.triton_reduce import sum_partials

NARROW = 8
"""The largest width whose window is kept in registers; wider filters take loops and three backward passes."""

WIDE_TILE, WIDE_CHUNK = 2048, 64
WALKS, BLOCK = 4, 64
"""Walks of a program, a warp each, and their channels, two a lane."""

ROWS, FEW_ROWS, FEW = 16, 8, 1024
"""Rows of a walk, all of which are asked for at once; and where that leaves fewer walks than FEW. Measured: docs/LOG.md, 2026-11-25."""

LONG_ROWS, LONG_STEPS, MANY = (128, 64, 32), 2, 4096
"""Rows of the backward's walks where that leaves MANY, two at once: the longer a walk, the fewer halos and partial sums."""

UPDATE_BLOCK = 256
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

Maybe = Tensor | None


def refusal(x: Tensor, weight: Tensor, bias: Maybe, activation: str | None, initial_state: Maybe, reset: Maybe) -> str:
    """Why the Triton kernel cannot serve these arguments; empty when it can."""
    return _bad_dtype((("x", x), ("weight", weight), ("bias", bias), ("initial_state", initial_state)))


def update_refusal(state: Tensor, x: Tensor, weight: Tensor, bias: Maybe, activation: str | None) -> str:
    """Why the Triton decode step cannot serve these arguments; empty when it can."""
    named = (("state", state), ("x", x), ("weight", weight), ("bias", bias))
    if torch.is_grad_enabled():
        for name, tensor in named:
            if tensor is not None and tensor.requires_grad:
                return f"{name} requires a gradient, the kernel updates the state in place and has none (use torch.no_grad)"
    return _bad_dtype(named)


def causal_conv1d_triton(
    x: Tensor, weight: Tensor, bias: Maybe, activation: str | None, initial_state: Maybe, reset: Maybe
) -> tuple[Tensor, Tensor]:
    """Return y and the final state, (batch, seqlen, d) and (batch, width - 1, d), both in x's dtype."""
    y, final = torch.ops.mambalab.causal_conv1d(x, weight, bias, initial_state, reset, activation == "silu")
    return y, final


def causal_conv1d_update_triton(
    state: Tensor, x: Tensor, weight: Tensor, bias: Maybe, activation: str | None
) -> Tensor:
    """Return y (batch, d) for one position and shift x into the state, in place."""
    y: Tensor = torch.ops.mambalab.causal_conv1d_update(state, x, weight, bias, activation == "silu")
    return y


class Cut(NamedTuple):
    """How the narrow kernels' work is cut: a program's walks, side by side, a walk's rows, and its channels."""

    walks: int
    rows: int
    block_d: int

    def blocks(self, d: int) -> int:
        """Programs side by side along the channels."""
        return -(-d // self.block_d)

    def chunks(self, seqlen: int) -> int:
        """Programs one after another along the sequence."""
        return -(-seqlen // (self.walks * self.rows))

    def options(self) -> dict[str, int]:
        """The kernel's keyword arguments that say so."""
        return {"WALKS": self.walks, "ROWS": self.rows, "BLOCK_D": self.block_d, "num_warps": self.walks}


def short_walks(batch: int, seqlen: int, d: int) -> Cut:
    """Walks whose rows are all asked for at once, several a program, so that programs share the rows between them."""
    return _cut(seqlen, d, ROWS if _count(batch, seqlen, d, ROWS) >= FEW else FEW_ROWS)


def backward_cut(batch: int, seqlen: int, d: int, width: int, continued: bool) -> tuple[Cut, int]:
    """The cut and how many rows are asked for at once; `continued` from an initial state, to whose gradient a walk goes on."""
    for rows in LONG_ROWS:
        if _count(batch, seqlen, d, rows) >= MANY:
            return _cut(seqlen, d, rows), LONG_STEPS
    cut = short_walks(batch, seqlen, d)
    return cut, cut.rows + (width - 1) * (2 if continued else 1)


def _block(d: int) -> int:
    block: int = min(BLOCK, triton.next_power_of_2(d))
    return block


def _count(batch: int, seqlen: int, d: int, rows: int) -> int:
    count: int = batch * triton.cdiv(d, _block(d)) * triton.cdiv(seqlen, rows)
    return count


def _cut(seqlen: int, d: int, rows: int) -> Cut:
    return Cut(min(WALKS, triton.next_power_of_2(triton.cdiv(seqlen, rows))), rows, _block(d))


def _wide_block(d: int) -> tuple[int, int]:
    block_d: int = min(128, triton.next_power_of_2(d))
    return WIDE_TILE // block_d, block_d


def _bad_dtype(named: tuple[tuple[str, Maybe], ...]) -> str:
    for name, tensor in named:
        if tensor is not None and tensor.dtype not in DTYPES:
            return f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}, the kernel takes float32, bfloat16 and float16"
    return ""


def _strides(tensor: Maybe, rank: int) -> tuple[int, ...]:
    return (0,) * rank if tensor is None else tensor.stride()


def _flags(bias: Maybe, initial_state: Maybe, reset: Maybe) -> dict[str, bool]:
    return {"HAS_BIAS": bias is not None, "HAS_INITIAL": initial_state is not None, "HAS_RESET": reset is not None}


@torch.library.custom_op("mambalab::causal_conv1d", mutates_args=())
def causal_conv1d_op(
    x: Tensor, weight: Tensor, bias: Maybe, initial_state: Maybe, reset: Maybe, silu: bool
) -> tuple[Tensor, Tensor]:
    y, final = _outputs(x, weight, bias, initial_state, reset, silu)
    batch, seqlen, d = x.shape
    width = weight.shape[1]
    arguments = (
        x, weight, bias if bias is not None else x, initial_state if initial_state is not None else x,
        reset if reset is not None else x, y, final, seqlen, d,
    )  # fmt: skip
    strides = (*x.stride(), *weight.stride(), *_strides(bias, 1), *_strides(initial_state, 3), *_strides(reset, 2))
    flags = {"WIDTH": width, "SILU": silu} | _flags(bias, initial_state, reset)
    with on_device(x):
        if width <= NARROW:
            cut = short_walks(batch, seqlen, d)
            chunks = cut.chunks(seqlen)
            conv_forward[(batch * cut.blocks(d) * (chunks + 1),)](
                *arguments, chunks, *strides, **flags, **cut.options()
            )
        else:
            block_t, block_d = _wide_block(d)
            blocks_t = triton.cdiv(seqlen, block_t)
            conv_forward_wide[(triton.cdiv(d, block_d) * blocks_t * batch,)](
                *arguments, blocks_t, *strides, **flags, BLOCK_T=block_t, BLOCK_D=block_d, num_warps=4
            )
    return y, final


def _outputs(
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    initial_state: Maybe,
    reset: Maybe,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    batch, seqlen, d = x.shape
    y = torch.empty((batch, seqlen, d), dtype=x.dtype, device=x.device)
    return y, torch.empty((batch, weight.shape[1] - 1, d), dtype=x.dtype, device=x.device)


causal_conv1d_op.register_fake(_outputs)


@torch.library.custom_op("mambalab::causal_conv1d_backward", mutates_args=())
def _causal_conv1d_backward(
    dy: Maybe, dfinal: Maybe, x: Tensor, weight: Tensor, bias: Maybe, initial_state: Maybe, reset: Maybe, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight, dbias, dinitial = _gradients(dy, dfinal, x, weight, bias, initial_state, reset, silu)
    with on_device(x):
        if weight.shape[1] <= NARROW:
            partial = _narrow(dy, dfinal, x, weight, bias, initial_state, reset, silu, dx, dinitial)
        else:
            partial = _wide(dy, dfinal, x, weight, bias, initial_state, reset, silu, dx, dinitial)
        with aside(weight, partial):
            sum_partials(partial, dweight.t(), None if bias is None else dbias)
    return dx, dweight, dbias, dinitial


def _gradients(
    dy: Maybe,
    dfinal: Maybe,
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    initial_state: Maybe,
    reset: Maybe,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight = (torch.empty(like.shape, dtype=like.dtype, device=x.device) for like in (x, weight))
    dbias, dinitial = (
        x.new_empty(0) if like is None else torch.empty(like.shape, dtype=like.dtype, device=x.device)
        for like in (bias, initial_state)
    )
    return dx, dweight, dbias, dinitial


_causal_conv1d_backward.register_fake(_gradients)


def _narrow(
    dy: Maybe,
    dfinal: Maybe,
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    initial_state: Maybe,
    reset: Maybe,
    silu: bool,
    dx: Tensor,
    dinitial: Tensor,
) -> Tensor:
    """Fill dx and dinitial; return the partial sums of dweight and dbias."""
    batch, seqlen, d = x.shape
    width = weight.shape[1]
    cut, steps = backward_cut(batch, seqlen, d, width, initial_state is not None)
    chunks = cut.chunks(seqlen)
    partial = torch.empty(
        (batch * chunks * cut.walks, width + (bias is not None), d), dtype=torch.float32, device=x.device
    )
    conv_backward[(batch * cut.blocks(d) * chunks,)](
        x, weight, bias if bias is not None else x, initial_state if initial_state is not None else x,
        reset if reset is not None else x, dy if dy is not None else x, dfinal if dfinal is not None else x, dx, dinitial, partial,
        seqlen, d, chunks, *x.stride(), *weight.stride(), *_strides(bias, 1), *_strides(initial_state, 3),
        *_strides(reset, 2), *_strides(dy, 3), *_strides(dfinal, 3), WIDTH=width, SILU=silu, **_flags(bias, initial_state, reset),
        HAS_DY=dy is not None, HAS_DFINAL=dfinal is not None, STEPS=steps, **cut.options(),
    )  # fmt: skip
    return partial


def _wide(
    dy: Maybe,
    dfinal: Maybe,
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    initial_state: Maybe,
    reset: Maybe,
    silu: bool,
    dx: Tensor,
    dinitial: Tensor,
) -> Tensor:
    """As `_narrow`, in three passes."""
    batch, seqlen, d = x.shape
    width = weight.shape[1]
    dy = torch.zeros_like(x) if dy is None else dy
    flags = _flags(bias, initial_state, reset)
    block_t, block_d = _wide_block(d)
    blocks_t, blocks_d = triton.cdiv(seqlen, block_t), triton.cdiv(d, block_d)
    initial, marks = (x if tensor is None else tensor for tensor in (initial_state, reset))
    gradient = torch.empty((batch, seqlen, d), dtype=torch.float32, device=x.device)
    window_gradient[(blocks_d * blocks_t * batch,)](
        x, weight, x if bias is None else bias, initial, marks, dy, gradient, seqlen, d, blocks_t, *x.stride(), *weight.stride(),
        *_strides(bias, 1), *_strides(initial_state, 3), *_strides(reset, 2), *dy.stride(),
        WIDTH=width, SILU=silu, **flags, BLOCK_T=block_t, BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    flags.pop("HAS_BIAS")
    blocks_t = triton.cdiv(seqlen + (width - 1 if initial_state is not None else 0), block_t)
    input_gradient[(blocks_d * blocks_t * batch,)](
        weight, marks, gradient, x if dfinal is None else dfinal, dx, dinitial, seqlen, d, blocks_t, *weight.stride(),
        *_strides(reset, 2), *_strides(dfinal, 3), WIDTH=width, **flags, HAS_DFINAL=dfinal is not None,
        BLOCK_T=block_t, BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    chunks, block_d, planes = triton.cdiv(seqlen, WIDE_CHUNK), min(32, block_d), width + (bias is not None)
    partial = torch.empty((batch * chunks, planes, d), dtype=torch.float32, device=x.device)
    weight_gradient[(batch * chunks, triton.cdiv(d, block_d), planes)](
        x, initial, marks, gradient, partial, seqlen, d, chunks, *x.stride(), *_strides(initial_state, 3), *_strides(reset, 2),
        WIDTH=width, **flags, BLOCK_T=WIDE_CHUNK, BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    return partial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, initial_state, reset, silu = inputs
    used(weight)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, initial_state, reset)
    ctx.silu = silu


def _differentiate(ctx: Any, dy: Maybe, dfinal: Maybe) -> tuple[Maybe, ...]:
    if dy is None and dfinal is None:
        return (None,) * 6
    x, weight, bias, initial_state, reset = ctx.saved_tensors
    dx, dweight, dbias, dinitial = torch.ops.mambalab.causal_conv1d_backward(
        dy, dfinal, x, weight, bias, initial_state, reset, ctx.silu
    )
    return dx, dweight, None if bias is None else dbias, None if initial_state is None else dinitial, None, None


causal_conv1d_op.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("mambalab::causal_conv1d_update", mutates_args=("state",))
def _causal_conv1d_update(state: Tensor, x: Tensor, weight: Tensor, bias: Maybe, silu: bool) -> Tensor:
    y = _update_output(state, x, weight, bias, silu)
    batch, d = x.shape
    block_d = min(UPDATE_BLOCK, triton.next_power_of_2(d))
    with on_device(x):
        conv_update[(batch, triton.cdiv(d, block_d))](
            state, x, weight, bias if bias is not None else x, y, d, *state.stride(), *x.stride(), *weight.stride(),
            *_strides(bias, 1), WIDTH=weight.shape[1], SILU=silu, HAS_BIAS=bias is not None, BLOCK_D=block_d, num_warps=2,
        )  # fmt: skip
    return y


def _update_output(state: Tensor, x: Tensor, weight: Tensor, bias: Maybe, silu: bool) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_causal_conv1d_update.register_fake(_update_output)
