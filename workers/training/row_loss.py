"""The loss of small vocabularies on a GPU: one kernel gives each position's loss and what the backward pass starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from kernels.token_loss import token_loss
from kernels.token_loss.api import MAX_VOCAB

Apart = Callable[..., contextlib.AbstractContextManager[object]]


class RowLoss(NamedTuple):
    """The gradient of the scaled sum of losses by the logits; of each member, the sum of losses and how many are right."""

    slopes: Tensor
    total: Tensor
    hits: Tensor


def serves(logits: Tensor) -> bool:
    """Say whether this loss pays. A CPU gains nothing, and keeps the bits that it has always given."""
    return logits.is_cuda and logits.shape[-1] <= MAX_VOCAB


def row_loss(logits: Tensor, targets: Tensor, scale: Tensor, apart: Apart | None, *, measure: bool) -> RowLoss:
    """Return the loss of (positions, vocab_size) logits; see `kernels.token_loss`.

    Args:
        scale: () for one run, (members,) where each has an equal part of the positions; so are the sums.
        apart: takes the work that no later part of the pass waits for, and what that is made of; None: in line.
        measure: count those that are right; else their number means nothing.
    """
    logits = logits.detach()
    losses, slopes = token_loss(logits, targets, scale)
    with contextlib.nullcontext() if apart is None else apart(losses, logits, targets):
        total = losses.view(*scale.shape, -1).sum(-1)
        # IGNORE is no token: such positions are never right
        hits = (logits.argmax(-1) == targets).view(*scale.shape, -1).sum(-1) if measure else total
    return RowLoss(slopes, total, hits)
