"""One position of the selective scan as its formula reads; any dtype.

Upstream's names (state-spaces/mamba, `selective_state_update`) are ours; its softplus is log(exp(dt) + 1), which loses
small steps, ours is the scan's.
"""

import torch
from torch import Tensor

from kernels.selective_scan.reference import finish, step_sizes


def selective_state_update_reference(
    state: Tensor,
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
) -> Tensor:
    """Return y and advance the state in place; see `selective_state_update`. Arguments are taken as checked."""
    dt = step_sizes(x, dt, dt_bias, dt_softplus)
    A = A.to(state.dtype)
    B, C = (_per_channel(values.to(state.dtype), x.shape[1]) for values in (B, C))
    before = state.clone() if torch.is_grad_enabled() else state  # autograd saves it, and the state is overwritten
    u = x.to(dt.dtype)
    h = torch.exp(dt[..., None] * A) * before + (dt * u)[..., None] * B
    state.copy_(h)
    y = (C * h).sum(-1)
    y = 2 * y.real if y.is_complex() else y
    return finish(y, u, D, z).to(x.dtype)


def _per_channel(values: Tensor, d_inner: int) -> Tensor:
    """Return B or C as (batch, d_inner or 1, d_state)."""
    if values.dim() == 2:
        return values[:, None]
    return values.repeat_interleave(d_inner // values.shape[1], dim=1)
