"""The selective scan in plain PyTorch, fast enough to train with on a CPU.

The sequence is cut into blocks whose working set stays in a core's cache. Within a block all decays are one call of
`exp2`, the recurrence is one fused multiply-add a position over all (batch, states, channels), and sums over states are
batched products. Only the states between blocks are kept; the backward replays each block. Why so: docs/LOG.md,
"The scan on a CPU".

Shapes within a block: (batch, positions, ngroups, d_state, d_inner / ngroups), so that the contiguous dimension is long.
What has no states (x, dt, y) has 1 in their place, B and C have 1 in the place of channels; constants (A, and B and C where
constant) have the last three dimensions alone.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.checks import state_dtype
from kernels.common.numerics import group_channels
from kernels.selective_scan.reference import finish, step_sizes

_BLOCK_ELEMENTS = 2**18
"""Decays in a block: 1 MB of fp32. Half of it is slower by a tenth (calls of small operations), four times by a tenth too
(cache misses); AMD EPYC with 1 MB of second-level cache a core, 2026-11-24."""

_BLOCK_POSITIONS = 16
"""Least positions in a block of a long sequence: states between blocks are then a sixteenth of all states."""


def selective_scan_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state; see `selective_scan`. Arguments are taken as checked."""
    real = state_dtype(x)
    dtype = real.to_complex() if A.is_complex() else real
    ngroups = math.lcm(*(values.shape[2] for values in (B, C) if values.dim() == 4))
    dt = step_sizes(x, dt, dt_bias, dt_softplus)
    y, final_state = _Scan.apply(  # type: ignore[no-untyped-call]
        group_channels(x.to(real), ngroups)[..., None, :],
        group_channels(dt, ngroups)[..., None, :],
        _states_first(A.to(dtype), ngroups),
        _broadcastable(B.to(dtype), ngroups),
        _broadcastable(C.to(dtype), ngroups),
        None if initial_state is None else _states_first(initial_state.to(dtype), ngroups),
        reset,
    )
    final_state = final_state.transpose(-1, -2).reshape(len(x), *A.shape)
    return finish(y.view(x.shape), x, D, z), final_state


def _states_first(values: Tensor, ngroups: int) -> Tensor:
    """Return (..., d_inner, d_state) as (..., ngroups, d_state, channels), contiguous."""
    *batch, d_inner, d_state = values.shape
    return values.reshape(*batch, ngroups, d_inner // ngroups, d_state).transpose(-1, -2).contiguous()


def _broadcastable(values: Tensor, ngroups: int) -> Tensor:
    """Return B or C as (batch, seqlen, ngroups, d_state, 1), or (ngroups, d_state, channels) where constant."""
    if values.dim() == 2:
        return _states_first(values, ngroups)
    if values.dim() == 3:
        values = values[:, :, None]
    return values.repeat_interleave(ngroups // values.shape[2], dim=2)[..., None]


class _Inputs(NamedTuple):
    """The tensors along the sequence, or a piece of them."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    reset: Tensor | None

    def piece(self, batch: slice, positions: slice) -> "_Inputs":
        return _Inputs(*(None if values is None else _piece(values, batch, positions) for values in self))  # type: ignore[arg-type]

    def resets(self) -> list[Tensor | None]:
        """Return for each position the sequences it resets, (batch, 1, 1, 1), or None where it resets none."""
        if self.reset is None:
            return [None] * self.x.shape[1]
        masks = self.reset[..., None, None, None].unbind(1)
        return [mask if some else None for mask, some in zip(masks, self.reset.any(0).tolist(), strict=True)]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        inputs = _Inputs(x, dt, B, C, reset)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        state = torch.zeros(len(x), *A.shape, dtype=A.dtype, device=x.device) if h0 is None else h0.clone()
        work = _Workspace(x, A, buffers=3 if _is_constant(C) else 2)
        starts = []
        for batch, blocks in work.pieces():
            for positions in blocks:
                starts.append(state[batch].clone())
                piece = inputs.piece(batch, positions)
                decay, h, *scratch = work.take(piece)
                _replay(piece, A, starts[-1], decay, h)
                y[batch, positions] = _output(_sum_states(piece.C, h, *scratch))
                state[batch] = h[:, -1]
        ctx.save_for_backward(x, dt, A, B, C, reset, *starts)
        ctx.has_initial_state = h0 is not None
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, reset, *starts = ctx.saved_tensors
        inputs = _Inputs(x, dt, B, C, reset)
        dx, ddt = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
        dA, dB, dC = (torch.zeros(values.shape, dtype=values.dtype, device=x.device) for values in (A, B, C))
        grads = _Inputs(dx, ddt, dB, dC, None)
        carry = dfinal.clone()
        work = _Workspace(x, A, buffers=4)
        for batch, blocks in reversed(list(work.pieces())):
            for positions in reversed(blocks):
                block = _Block(inputs.piece(batch, positions), A, starts.pop(), work)
                carry[batch] = block.reverse(dy[batch, positions], carry[batch])
                block.accumulate(grads.piece(batch, positions), dA)
        return dx, ddt, dA, dB, dC, carry if ctx.has_initial_state else None, None


class _Workspace:
    """How the batch and the sequence are cut, and memory for one block."""

    def __init__(self, x: Tensor, A: Tensor, buffers: int) -> None:
        self.batch, self.seqlen = x.shape[:2]
        self.rows = max(1, min(self.batch, _BLOCK_ELEMENTS // _BLOCK_POSITIONS // A.numel()))
        self.positions = max(_BLOCK_POSITIONS, _BLOCK_ELEMENTS // (self.rows * A.numel()))
        size = self.rows * min(self.positions, self.seqlen) * A.numel()
        self.states = A.shape
        self.memory = [torch.empty(size, dtype=A.dtype, device=x.device) for _ in range(buffers)]

    def pieces(self) -> Iterator[tuple[slice, list[slice]]]:
        """Yield slices of the batch, each with the slices of the sequence."""
        for row in range(0, self.batch, self.rows):
            yield (
                slice(row, min(row + self.rows, self.batch)),
                [slice(start, start + self.positions) for start in range(0, self.seqlen, self.positions)],
            )

    def take(self, piece: _Inputs) -> list[Tensor]:
        """Return the memory as tensors (batch, positions, ngroups, d_state, channels) of the piece's size."""
        shape = (*piece.x.shape[:2], *self.states)
        return [buffer[: math.prod(shape)].view(shape) for buffer in self.memory]


class _Block:
    """The backward of one block. With complex A all that is conjugated in the formulas is conjugated here at once."""

    def __init__(self, inputs: _Inputs, A: Tensor, start: Tensor, work: _Workspace) -> None:
        self.inputs, self.A, self.start = inputs, A, start
        self.decay, self.h, self.g, self.scratch = work.take(inputs)
        self.resets = _replay(inputs, A, start, self.decay, self.h)
        if A.is_complex():
            self.decay.conj_physical_()
            self.h.conj_physical_()
            self.A, self.start = A.conj_physical(), start.conj_physical()
            self.inputs = inputs._replace(B=inputs.B.conj_physical(), C=inputs.C.conj_physical())

    def reverse(self, dy: Tensor, carry: Tensor) -> Tensor:
        """Fill g, the gradient of each state, from the last to the first; return that of the state before the block."""
        self.dy = 2 * dy if self.A.is_complex() else dy
        torch.mul(self.dy, self.inputs.C, out=self.g)
        now, decays = self.g.unbind(1), self.decay.unbind(1)
        now[-1].add_(carry)
        for t in range(len(now) - 1, 0, -1):
            now[t - 1].addcmul_(decays[t], _masked(now[t], self.resets[t]))
        return _masked(decays[0] * now[0], self.resets[0])

    def accumulate(self, grads: _Inputs, dA: Tensor) -> None:
        """Write the block's part of the gradients along the sequence, add to those of constants; spends the buffers."""
        x, dt, B, _, reset = self.inputs
        _add_product(grads.C, self.dy, self.h, self.scratch)
        _add_product(grads.B, x * dt, self.g, self.scratch)
        dxdt = _real(_sum_states(B, self.g, self.scratch))
        torch.mul(dxdt, dt, out=grads.x)
        torch.mul(dxdt, x, out=grads.dt)
        w = self.decay.mul_(self.g)  # becomes the gradient of dt A
        w[:, 1:].mul_(self.h[:, :-1])
        w[:, 0].mul_(self.start)
        if reset is not None:
            w.masked_fill_(reset[..., None, None, None], 0)
        torch.mul(w, self.A, out=self.scratch)
        grads.dt.add_(_real(self.scratch.sum(-2, keepdim=True)))
        dA.add_(w.mul_(dt).sum((0, 1)))


def _replay(inputs: _Inputs, A: Tensor, state: Tensor, decay: Tensor, h: Tensor) -> list[Tensor | None]:
    """Fill the block's decays and states from the state before it; return its resets."""
    if A.is_complex():
        torch.exp(torch.mul(inputs.dt, A, out=decay), out=decay)
    else:
        torch.exp2(torch.mul(inputs.dt, A * math.log2(math.e), out=decay), out=decay)  # a third of the time of exp
    torch.mul(inputs.x * inputs.dt, inputs.B, out=h)
    resets = inputs.resets()
    for now, factor, mask in zip(h.unbind(1), decay.unbind(1), resets, strict=True):
        state = now.addcmul_(factor, _masked(state, mask))
    return resets


def _sum_states(weights: Tensor, values: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Return the sum of weights * values over states, 1 in their place; `scratch` is for constant weights."""
    if not _is_constant(weights):
        product: Tensor = weights.transpose(-1, -2) @ values
        return product
    return torch.mul(weights, values, out=scratch).sum(-2, keepdim=True)


def _add_product(total: Tensor, left: Tensor, right: Tensor, scratch: Tensor) -> None:
    """Add left * right to `total`, summed over the dimensions that it does not have."""
    torch.mul(left, right, out=scratch)
    total.add_(scratch.sum((0, 1)) if _is_constant(total) else scratch.sum(-1, keepdim=True))


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the sequences that are reset. Not by a product, which would keep what is infinite."""
    return values if mask is None else values.masked_fill(mask, 0)


def _piece(values: Tensor, batch: slice, positions: slice) -> Tensor:
    return values if _is_constant(values) else values[batch, positions]


def _is_constant(values: Tensor) -> bool:
    return values.dim() == 3


def _output(sums: Tensor) -> Tensor:
    return 2 * sums.real if sums.is_complex() else sums


def _real(values: Tensor) -> Tensor:
    return values.real if values.is_complex() else values
