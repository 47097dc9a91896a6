"""RMSNorm after a residual addition, as its formula reads; any dtype, differentiable any number of times.

Upstream's names (state-spaces/mamba, `rms_norm_fn`): the pair returned is `prenorm=True, residual_in_fp32=True`.
"""

import torch
from torch import Tensor

from kernels.common.checks import state_dtype


def rms_norm_reference(
    x: Tensor, weight: Tensor, *, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream; see `rms_norm`. Arguments are taken as checked."""
    dtype = state_dtype(x)
    stream = x.to(dtype) if residual is None else x.to(dtype) + residual.to(dtype)
    scale = torch.rsqrt(stream.square().mean(-1, keepdim=True) + eps)
    return (stream * scale * weight.to(dtype)).to(x.dtype), stream
