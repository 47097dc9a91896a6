"""The selective scan in plain PyTorch, fast enough to train with on a CPU.

The sequence is cut into blocks whose working set stays in a core's cache. Within a block all decays are one call of
`exp2`, the recurrence is one fused multiply-add a position over all (batch, states, channels), and sums over states are
batched products. Where a position has too few states to be worth a call, a block's positions are dealt to lanes that
run side by side and are then joined. Only the states between blocks are kept; the backward replays each block. Why so:
docs/LOG.md, "The scan on a CPU".

Shapes within a block: (batch, positions, ngroups, d_state, d_inner / ngroups), so that the contiguous dimension is long.
What has no states (x, dt, y) has 1 in their place, B and C have 1 in the place of channels; constants (A, and B and C where
constant) have the last three dimensions alone.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.checks import state_dtype
from kernels.common.compilation import uncompiled
from kernels.common.errors import UnsupportedError
from kernels.common.members import apart, side_by_side
from kernels.common.numerics import group_channels
from kernels.selective_scan.reference import finish, step_sizes

_BLOCK_ELEMENTS = 2**18
"""Decays in a block: 1 MB of fp32. With half of it the scan takes a fifth longer (calls of small operations), with four
times up to a quarter (cache misses); AMD EPYC with 1 MB of second-level cache a core, 2026-11-24."""

_BLOCK_POSITIONS = 16
"""Least positions in a block of a long sequence: states between blocks are then a sixteenth of all states."""

_LANE_STATES = 4096
"""Positions with fewer states are run in lanes: a call on so few costs more in calling than in computing (same machine)."""


@uncompiled
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
    """Return y and the final state; see `selective_scan`. Arguments are taken as checked.

    `torch.compile` is kept out: it would unroll the loops, one call a position.
    """
    real = state_dtype(x)
    dtype = real.to_complex() if A.is_complex() else real
    ngroups = math.lcm(*(values.shape[2] for values in (B, C) if values.dim() == 4))
    dt = step_sizes(x, dt, dt_bias, dt_softplus)
    u = x.to(real)  # once: each cast would round its part of the gradient
    y, final_state, *_ = _Scan.apply(  # type: ignore[no-untyped-call]
        group_channels(u, ngroups)[..., None, :],
        group_channels(dt, ngroups)[..., None, :],
        _states_first(A.to(dtype), ngroups),
        _broadcastable(B.to(dtype), ngroups),
        _broadcastable(C.to(dtype), ngroups),
        None if initial_state is None else _states_first(initial_state.to(dtype), ngroups),
        reset,
    )
    final_state = final_state.transpose(-1, -2).reshape(len(x), *A.shape)
    return finish(y.view(x.shape), u, D, z).to(x.dtype), final_state


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
    """Returns y, the final state, and the states at the start of each block, which the backward restarts from."""

    @staticmethod
    def forward(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, ...]:
        inputs = _Inputs(x, dt, B, C, reset)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        state = torch.zeros(len(x), *A.shape, dtype=A.dtype, device=x.device) if h0 is None else h0.clone()
        work = _Workspace(inputs, A, buffers=3 if _is_constant(C) else 2)
        starts = []
        for batch, positions in work.pieces():
            starts.append(state[batch].clone())
            piece = inputs.piece(batch, positions)
            decay, h, *scratch = work.take(piece)
            resets = _fill(piece, A, decay, h)
            _recur(h, decay, starts[-1], resets, work.lanes_for(piece))
            y[batch, positions] = _output(_sum_states(piece.C, h, *scratch))
            state[batch] = h[:, -1]
        return y, state, *starts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, dt, A, B, C, h0, reset = inputs
        _, _, *starts = output
        ctx.set_materialize_grads(False)  # else there would be zeros for each of the starts
        ctx.mark_non_differentiable(*starts)
        ctx.save_for_backward(x, dt, A, B, C, reset, *starts)
        ctx.has_initial_state = h0 is not None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, reset, *starts = ctx.saved_tensors
        dy = torch.zeros(x.shape, dtype=x.dtype, device=x.device) if dy is None else dy
        state = (len(x), *A.shape)
        carry = torch.zeros(state, dtype=A.dtype, device=x.device) if dfinal is None else dfinal.clone()
        inputs = _Inputs(x, dt, B, C, reset)
        dx, ddt = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
        dA, dB, dC = (torch.zeros(values.shape, dtype=values.dtype, device=x.device) for values in (A, B, C))
        grads = _Inputs(dx, ddt, dB, dC, None)
        work = _Workspace(inputs, A, buffers=4)
        with torch.autocast(x.device.type, enabled=False):  # a caller may run the backward under autocast
            for (batch, positions), start in zip(reversed(work.pieces()), reversed(starts), strict=True):
                block = _Block(inputs.piece(batch, positions), A, start, work)
                carry[batch] = block.reverse(dy[batch, positions], carry[batch])
                block.accumulate(grads.piece(batch, positions), dA)
        return dx, ddt, dA, dB, dC, carry if ctx.has_initial_state else None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor | None) -> tuple[Any, Any]:
        """Take members as groups of channels."""
        *values, reset = arguments
        if in_dims[-1] is not None:
            raise UnsupportedError("selective_scan: vmap over reset is not supported: members share their resets")
        members = info.batch_size
        merged = [
            None if one is None else side_by_side(one, in_dim, _groups_dim(one, in_dim), members)
            for one, in_dim in zip(values, in_dims[:-1], strict=True)
        ]
        y, state, *starts = _Scan.apply(*merged, reset)  # type: ignore[no-untyped-call]
        outputs = (apart(y, 2, members), apart(state, 1, members), *starts)
        return outputs, (2, 1, *(None for _ in starts))


def _groups_dim(values: Tensor, in_dim: int | None) -> int:
    """Return which dimension of one member's tensor counts the groups: x, dt, B, C; states; or A and constants."""
    return {5: 2, 4: 1, 3: 0}[values.dim() - (in_dim is not None)]


class _Workspace:
    """How the batch and the sequence are cut, and memory for one block."""

    def __init__(self, inputs: _Inputs, A: Tensor, buffers: int) -> None:
        self.batch, self.seqlen = inputs.x.shape[:2]
        self.rows = max(1, min(self.batch, _BLOCK_ELEMENTS // _BLOCK_POSITIONS // A.numel()))
        self.positions = min(self.seqlen, max(_BLOCK_POSITIONS, _BLOCK_ELEMENTS // (self.rows * A.numel())))
        few = self.rows * A.numel() < _LANE_STATES and inputs.reset is None
        self.lanes = math.isqrt(self.positions) if few else 1
        self.positions -= self.positions % self.lanes
        self.states = A.shape
        size = self.rows * self.positions * A.numel()
        self.memory = [torch.empty(size, dtype=A.dtype, device=A.device) for _ in range(buffers)]

    def pieces(self) -> list[tuple[slice, slice]]:
        """Return each block's slices of the batch and of the sequence; positions that lanes cannot share come last."""
        even = self.seqlen - self.seqlen % self.lanes
        positions = [slice(start, min(start + self.positions, even)) for start in range(0, even, self.positions)]
        positions += [slice(even, self.seqlen)] if even < self.seqlen else []
        batches = [slice(row, min(row + self.rows, self.batch)) for row in range(0, self.batch, self.rows)]
        return list(itertools.product(batches, positions))

    def lanes_for(self, piece: _Inputs) -> int:
        """Return how many lanes share the piece's positions: those that are left over are too few."""
        return 1 if piece.x.shape[1] % self.lanes else self.lanes

    def take(self, piece: _Inputs) -> list[Tensor]:
        """Return the memory as tensors (batch, positions, ngroups, d_state, channels) of the piece's size."""
        shape = (*piece.x.shape[:2], *self.states)
        return [buffer[: math.prod(shape)].view(shape) for buffer in self.memory]


class _Block:
    """The backward of one block. With complex A all that is conjugated in the formulas is conjugated here at once."""

    def __init__(self, inputs: _Inputs, A: Tensor, start: Tensor, work: _Workspace) -> None:
        self.inputs, self.A, self.start, self.lanes = inputs, A, start, work.lanes_for(inputs)
        self.decay, self.h, self.g, self.scratch = work.take(inputs)
        self.resets = _fill(inputs, A, self.decay, self.h)
        spent = self.decay if self.lanes == 1 else self.scratch.copy_(self.decay)
        _recur(self.h, spent, start, self.resets, self.lanes)
        if A.is_complex():
            self.decay.conj_physical_()
            self.h.conj_physical_()
            self.A, self.start = A.conj_physical(), start.conj_physical()
            self.inputs = inputs._replace(B=inputs.B.conj_physical(), C=inputs.C.conj_physical())

    def reverse(self, dy: Tensor, carry: Tensor) -> Tensor:
        """Fill g, the gradient of each state, from the last to the first; return that of the state before the block.

        A state passes on its gradient times its own decay, so `carry` comes multiplied, and so does what is returned.
        """
        self.dy = 2 * dy if self.A.is_complex() else dy
        torch.mul(self.dy, self.inputs.C, out=self.g)
        if self.lanes == 1:
            now = self.g.unbind(1)[::-1]
            now[0].add_(carry)
            _recur_singly(now[1:], self.decay.unbind(1)[:0:-1], now[0], self.resets[:0:-1])
        else:
            self.scratch[:, :-1] = self.decay[:, 1:]
            self.scratch[:, -1] = 1
            _recur_in_lanes(self.g, self.scratch, carry, self.lanes, backwards=True)
        return _masked(self.decay[:, 0] * self.g[:, 0], self.resets[0])

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


def _fill(inputs: _Inputs, A: Tensor, decay: Tensor, h: Tensor) -> list[Tensor | None]:
    """Write the block's decays, and into h what each position adds to the state; return the block's resets."""
    if A.is_complex():
        torch.exp(torch.mul(inputs.dt, A, out=decay), out=decay)
    else:
        torch.exp2(torch.mul(inputs.dt, A * math.log2(math.e), out=decay), out=decay)  # a third of the time of exp
    torch.mul(inputs.x * inputs.dt, inputs.B, out=h)
    return inputs.resets()


def _recur(h: Tensor, decay: Tensor, state: Tensor, resets: list[Tensor | None], lanes: int) -> None:
    """Turn what each position adds into the states, in place. With lanes the decays are spent."""
    if lanes == 1:
        _recur_singly(h.unbind(1), decay.unbind(1), state, resets)
    else:
        _recur_in_lanes(h, decay, state, lanes)


def _recur_singly(
    values: Sequence[Tensor], factors: Sequence[Tensor], state: Tensor, resets: Sequence[Tensor | None]
) -> None:
    """Add to each of values, in place, its factor times the one before it; `state` comes before the first."""
    for now, factor, mask in zip(values, factors, resets, strict=True):
        state = now.addcmul_(factor, _masked(state, mask))


def _recur_in_lanes(values: Tensor, factors: Tensor, state: Tensor, lanes: int, *, backwards: bool = False) -> None:
    """Do the same for (batch, positions, ...), with all lanes at once; factors become their products along a lane.

    The products are never more than 1 where the factors are not, so nothing overflows however fast states decay.
    """
    in_lanes = (len(values), lanes, -1, *values.shape[2:])
    values, factors = values.view(in_lanes), factors.view(in_lanes)
    order = slice(None, None, -1 if backwards else 1)
    now, products = values.unbind(2)[order], factors.unbind(2)[order]
    for t in range(1, len(now)):
        now[t].addcmul_(products[t], now[t - 1])
        products[t].mul_(products[t - 1])
    entering = torch.empty_like(now[0])
    states, ends, decays = (each.unbind(1)[order] for each in (entering, now[-1], products[-1]))
    states[0].copy_(state)
    for lane in range(1, lanes):
        torch.addcmul(ends[lane - 1], decays[lane - 1], states[lane - 1], out=states[lane])
    values.addcmul_(factors, entering[:, :, None])


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
