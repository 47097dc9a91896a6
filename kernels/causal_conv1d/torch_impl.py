"""The causal convolution in plain PyTorch, as a sum of shifted copies of the sequence times one weight a channel each."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.causal_conv1d.reference import causal_conv1d_update_reference, empty_past
from kernels.common.checks import state_dtype


def causal_conv1d_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state; see `causal_conv1d`. Arguments are taken as checked."""
    seqlen, width = x.shape[1], weight.shape[1]
    past = empty_past(x, weight) if initial_state is None else initial_state.to(x.dtype)
    padded = torch.cat((past, x), dim=1)
    dtype = state_dtype(x)
    wide, taps = padded.to(dtype), weight.to(dtype).t()
    sequence = None if reset is None else F.pad(reset.cumsum(1), (width - 1, 0))
    y = None if bias is None else bias.to(dtype)
    for tap in range(width):
        shifted = wide[:, tap : tap + seqlen]
        if sequence is not None:
            other = sequence[:, tap : tap + seqlen] != sequence[:, width - 1 :]
            shifted = shifted.masked_fill(other[..., None], 0)
        y = shifted * taps[tap] if y is None else torch.addcmul(y, shifted, taps[tap])
    assert y is not None
    if activation == "silu":
        y = F.silu(y)
    final = padded[:, seqlen:]
    if sequence is not None:
        final = final.masked_fill((sequence[:, seqlen:] != sequence[:, -1:])[..., None], 0)
    return y.to(x.dtype), final


causal_conv1d_update_torch = causal_conv1d_update_reference
"""One position leaves nothing to do better than the reference does."""
