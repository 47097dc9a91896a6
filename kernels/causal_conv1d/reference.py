"""The causal convolution as a window that slides over the sequence, position by position; any dtype.

Upstream's names (Dao-AILab/causal-conv1d): `causal_conv1d_fn` takes x as (batch, dim, seqlen), `initial_states` as
(batch, dim, width - 1), and numbers packed sequences (`seq_idx`) where we mark their first positions (`reset`).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.common.checks import state_dtype


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state; see `causal_conv1d`. Arguments are taken as checked."""
    past = empty_past(x, weight) if initial_state is None else initial_state.to(x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            past = torch.where(reset[:, t, None, None], torch.zeros_like(past), past)
        window = torch.cat((past, x[:, t : t + 1]), dim=1)
        outputs.append(apply_window(window, weight, bias, activation))
        past = window[:, 1:]
    return torch.stack(outputs, dim=1), past


def causal_conv1d_update_reference(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None
) -> Tensor:
    """Return y for one position and shift x into the state, in place; see `causal_conv1d_update`."""
    window = torch.cat((state, x[:, None].to(state.dtype)), dim=1)
    state.copy_(window[:, 1:])
    return apply_window(window.to(x.dtype), weight, bias, activation)


def empty_past(x: Tensor, weight: Tensor) -> Tensor:
    """Return zeros (batch, width - 1, d): what comes before a sequence."""
    return torch.zeros(x.shape[0], weight.shape[1] - 1, x.shape[2], dtype=x.dtype, device=x.device)


def apply_window(window: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Return (batch, d), in the window's dtype, from a window (batch, width, d) whose last position is the current one."""
    dtype = state_dtype(window)
    y = (window.to(dtype) * weight.to(dtype).t()).sum(1)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    return y.to(window.dtype)
