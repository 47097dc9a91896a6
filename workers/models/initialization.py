"""Initial values, those of the released Mamba-1 (state-spaces/mamba, `mamba_simple.py` and `mixer_seq_simple.py`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EMBEDDING_STD = 0.02
_DT_FLOOR = 1e-4


def log_uniform(size: int, low: float, high: float) -> Tensor:
    """Return the logarithms of `size` values drawn log-uniformly from [low, high]."""
    return torch.rand(size) * (math.log(high) - math.log(low)) + math.log(low)


def initial_dt_bias(size: int, low: float, high: float) -> Tensor:
    """Return b with softplus(b) log-uniform on [low, high], at least 1e-4."""
    dt = log_uniform(size, low, high).exp().clamp(min=_DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus, exact for small dt


def rescale_(projection: nn.Linear, n_residuals: int) -> None:
    """Divide a projection into the residual stream by the root of how many there are in the model, as GPT-2 does."""
    with torch.no_grad():
        projection.weight /= math.sqrt(n_residuals)
