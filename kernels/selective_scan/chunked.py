"""The selective scan in plain PyTorch, fast enough to train with on a CPU.

The sequence is cut into blocks whose working set stays in the second-level cache. Within a block every decay is one call
of `exp`, the recurrence is one fused multiply-add a position over all (batch, states, channels), and what is summed over
states or channels is a batched product. Only the states between blocks are kept; the backward replays each block.

Shapes within a block: (batch, positions, ngroups, d_state, d_inner / ngroups), channels innermost as they are contiguous.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.checks import state_dtype
from kernels.common.numerics import group_channels
from kernels.selective_scan.reference import finish, step_sizes

_BLOCK_ELEMENTS = 2**18  # 1 MB of fp32


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
    ngroups = max(values.shape[2] if values.dim() == 4 else 1 for values in (B, C))
    dt = step_sizes(x, dt, dt_bias, dt_softplus)
    h0 = None
    if initial_state is not None:
        h0 = group_channels(initial_state.to(dtype).transpose(1, 2), ngroups).transpose(1, 2)
    y, final = _Scan.apply(  # type: ignore[no-untyped-call]
        group_channels(x.to(real), ngroups)[..., None, :],
        group_channels(dt, ngroups)[..., None, :],
        group_channels(A.to(dtype).t(), ngroups).transpose(0, 1),
        _broadcastable(B.to(dtype), ngroups),
        _broadcastable(C.to(dtype), ngroups),
        h0,
        reset,
    )
    return finish(y.reshape(x.shape), x, D, z), final.transpose(1, 2).flatten(2).transpose(1, 2).contiguous()


def _broadcastable(values: Tensor, ngroups: int) -> Tensor:
    """Return B or C as (batch, seqlen, ngroups, d_state, 1), or (1, 1, ngroups, d_state, channels) where constant."""
    if values.dim() == 2:
        return group_channels(values.t(), ngroups).transpose(0, 1)[None, None]
    if values.dim() == 3:
        values = values[:, :, None]
    return values.repeat_interleave(ngroups // values.shape[2], dim=2)[..., None]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        batch, seqlen = x.shape[:2]
        size = max(1, min(seqlen, _BLOCK_ELEMENTS // (batch * A.numel())))
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        state = torch.zeros(batch, *A.shape, dtype=A.dtype, device=x.device) if h0 is None else h0
        starts = []
        for begin in range(0, seqlen, size):
            starts.append(state)
            block = slice(begin, begin + size)
            _, h = _replay(x, dt, A, B, state, reset, block)
            y[:, block] = _read_out(_take(C, block), h)
            state = h[:, -1].clone()
        ctx.save_for_backward(x, dt, A, B, C, reset, *starts)
        ctx.size, ctx.has_initial = size, h0 is not None
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, reset, *starts = ctx.saved_tensors
        dx, ddt = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
        dA, dB, dC = (torch.zeros(values.shape, dtype=values.dtype, device=x.device) for values in (A, B, C))
        carry = dfinal.clone()
        for index in reversed(range(len(starts))):
            block = slice(index * ctx.size, (index + 1) * ctx.size)
            decay, h = _replay(x, dt, A, B, starts[index], reset, block)
            g = dy[:, block] * _take(C, block).conj() * (2 if A.is_complex() else 1)
            resets = None if reset is None else reset[:, block]
            for t in reversed(range(g.shape[1])):
                g[:, t] += carry
                carry = decay[:, t].conj() * g[:, t]
                if resets is not None:
                    carry.masked_fill_(resets[:, t, None, None, None], 0)
            previous = torch.cat((starts[index][:, None], h[:, :-1]), dim=1)
            if resets is not None:
                previous.masked_fill_(resets[..., None, None, None], 0)
            w = g * (decay * previous).conj()
            xdt = x[:, block] * dt[:, block]
            dxdt = _real((g * _take(B, block).conj()).sum(-2, keepdim=True))
            dx[:, block] = dxdt * dt[:, block]
            ddt[:, block] = dxdt * x[:, block] + _real((w * A.conj()).sum(-2, keepdim=True))
            dA += (w * dt[:, block]).sum((0, 1))
            _add(dB, g * xdt, block)
            _add(dC, dy[:, block] * h.conj() * (2 if A.is_complex() else 1), block)
        return dx, ddt, dA, dB, dC, carry if ctx.has_initial else None, None


def _replay(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, state: Tensor, reset: Tensor | None, block: slice
) -> tuple[Tensor, Tensor]:
    decay = torch.exp(dt[:, block] * A)
    h = (x[:, block] * dt[:, block]) * _take(B, block)
    h = h.expand(decay.shape).contiguous()
    for t in range(h.shape[1]):
        if reset is not None:
            state = state.masked_fill(reset[:, block.start + t, None, None, None], 0)
        state = h[:, t].addcmul_(decay[:, t], state)
    return decay, h


def _take(values: Tensor, block: slice) -> Tensor:
    return values[:, block] if values.shape[-1] == 1 else values


def _add(total: Tensor, values: Tensor, block: slice) -> None:
    if total.shape[-1] == 1:
        total[:, block] = values.sum(-1, keepdim=True)
    else:
        total += values.sum((0, 1))


def _read_out(C: Tensor, h: Tensor) -> Tensor:
    y = (C * h).sum(-2, keepdim=True)
    return 2 * y.real if y.is_complex() else y


def _real(values: Tensor) -> Tensor:
    return values.real if values.is_complex() else values
