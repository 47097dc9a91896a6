"""The selective scan as its formula reads: one position after the other, in any dtype, differentiable any number of times.

Upstream's names (state-spaces/mamba, `selective_scan_ref`): u is our x, delta is dt, delta_bias is dt_bias. Upstream's
tensors are (batch, dim, seqlen), its B and C (batch, ngroups, d_state, seqlen).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.common.checks import state_dtype
from kernels.common.numerics import softplus


def selective_scan_reference(
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
    batch, _, d_inner = x.shape
    real = state_dtype(x)
    dtype = real.to_complex() if A.is_complex() else real
    dt = step_sizes(x, dt, dt_bias, dt_softplus)
    u = x.to(real)  # once: each cast would round its part of the gradient
    A = A.to(dtype)
    B, C = (per_channel(values.to(dtype), x.shape) for values in (B, C))
    h = torch.zeros(batch, d_inner, A.shape[1], dtype=dtype, device=x.device)
    h = h if initial_state is None else initial_state.to(dtype)
    resets = None if reset is None else reset[..., None, None].unbind(1)
    along = zip(*(values.unbind(1) for values in (dt, dt * u, B, C)), strict=True)  # views: cheap to go back through
    outputs = []
    for t, (now_dt, now_dtx, now_B, now_C) in enumerate(along):
        if resets is not None:
            h = torch.where(resets[t], torch.zeros_like(h), h)
        h = torch.exp(now_dt[..., None] * A) * h + now_dtx[..., None] * now_B
        outputs.append((now_C * h).sum(-1))
    y = torch.stack(outputs, dim=1)
    y = 2 * y.real if y.is_complex() else y
    return finish(y, u, D, z).to(x.dtype), h


def step_sizes(x: Tensor, dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    """Return dt as the recurrence uses it, in the state's dtype and expanded to the shape of x."""
    dt = dt.to(state_dtype(x))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = softplus(dt)
    return dt.expand(x.shape)


def finish(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip and apply the gate; y and x are in the state's real dtype."""
    if D is not None:
        y = torch.addcmul(y, x, D.to(y.dtype))
    return y if z is None else y * F.silu(z.to(y.dtype))


def per_channel(values: Tensor, shape: torch.Size) -> Tensor:
    """Return any form of B or C as (batch, seqlen, d_inner, d_state)."""
    batch, seqlen, d_inner = shape
    if values.dim() == 3:
        values = values[:, :, None]
    if values.dim() == 4:
        return values.repeat_interleave(d_inner // values.shape[2], dim=2)
    return values.expand(batch, seqlen, d_inner, values.shape[-1])
