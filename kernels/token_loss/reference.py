"""The loss and its gradient as their formulas read; any floating dtype."""

import torch
from torch import Tensor

from kernels.common.checks import state_dtype


def token_loss_reference(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses and slopes; see `token_loss`. Arguments are taken as checked."""
    dtype = state_dtype(logits)
    logs = torch.log_softmax(logits.to(dtype), dim=-1)
    known = targets >= 0
    place = torch.where(known, targets, 0)[:, None]
    losses = torch.where(known, -logs.gather(1, place).squeeze(1), 0.0)
    slopes = logs.exp().scatter_add_(1, place, torch.full_like(place, -1, dtype=dtype))
    weights = scale.to(dtype).reshape(-1).repeat_interleave(len(logits) // max(1, scale.numel()))
    return losses, (slopes * torch.where(known, weights, 0.0)[:, None]).to(logits.dtype)
