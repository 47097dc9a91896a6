"""Arithmetic that every implementation of an op must do alike."""

import torch
from torch import Tensor
from torch.nn import functional as F


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), exact to rounding: log1p for small steps, x itself only where the two are the same number.

    The cut-off of `F.softplus`, 20, is below float64's resolution: exp(-20) = 2e-9.
    """
    return F.softplus(x, threshold=40.0 if x.dtype == torch.float64 else 20.0)


def group_channels(channels: Tensor, ngroups: int) -> Tensor:
    """View (..., d_inner) as (..., ngroups, d_inner / ngroups): channel d belongs to group d // (d_inner / ngroups)."""
    return channels.view(*channels.shape[:-1], ngroups, channels.shape[-1] // ngroups)
