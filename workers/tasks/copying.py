"""Copying with fixed spacing: memorise the first tokens, reproduce them at the markers.

Layout, with m = `memorize` and noise 0:

    inputs   d1 d2 .. dm 0 0 .. 0 | M M .. M      `context` slots, then m markers M = vocab-1
    targets  -  -  ..  -  - - .. - | d1 d2 .. dm

The distance from a token to its marker is always `context`, so a time-invariant convolution solves the task: it is
the control of selective copying. Source: Arjovsky et al. 2016 (arXiv 1511.06464); the layout of the S4 repository.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.specs import CopyingSpec
from workers.tasks.base import IGNORE, Batch, SyntheticTask
from workers.tasks.display import lay_out

NOISE = 0


class CopyingTask(SyntheticTask):
    """Copying: `vocab - 2` data tokens, 1 .. vocab-2; chance is 1 / (vocab - 2). Loss at the markers only."""

    def __init__(self, spec: CopyingSpec) -> None:
        self.name: str = spec.name
        self.context, self.memorize, self.vocab_size = spec.context, spec.memorize, spec.vocab
        self.seqlen = spec.context + spec.memorize

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `context + memorize` positions."""
        shape = (batch_size, self.memorize)
        data = torch.randint(1, self.vocab_size - 1, shape, generator=generator, device=device)
        slots = torch.arange(self.memorize, device=device)
        return assemble(data, slots, self.context, self.vocab_size - 1)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence: noise as `.`, the marker as `M`, data tokens as numbers."""
        return lay_out(batch, {NOISE: ".", self.vocab_size - 1: "M"})


def assemble(data: Tensor, slots: Tensor, context: int, marker: int, *, noise: int = NOISE) -> Batch:
    """Put data tokens into their slots of a noise context and append the markers.

    Shapes: data: (batch, memorize); slots: the same or (memorize,), rising, below `context`.
    """
    batch, memorize = data.shape
    inputs = data.new_full((batch, context + memorize), noise)
    inputs.scatter_(1, slots.expand(batch, memorize), data)
    inputs[:, context:] = marker
    targets = torch.full_like(inputs, IGNORE)
    targets[:, context:] = data
    return Batch(inputs, targets)
