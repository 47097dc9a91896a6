"""Selective copying: the data tokens stand at random places in the noise, so a model must choose what to keep.

Layout, with m = `memorize`, noise 0 and marker M = vocab-1:

    inputs   0 d1 0 0 d2 .. 0 dm 0 | M M .. M      `context` slots, then m markers
    targets  - -  - - -  .. - -  - | d1 d2 .. dm

Source: Gu & Dao 2023 (arXiv 2312.00752), section 4.1.1, whose code was not released; the layout is that of the same
author's copying task in the S4 repository with `variable=True`, except that `context` counts data and noise together.
"""

from __future__ import annotations

import torch

from workers.specs import SelectiveCopyingSpec
from workers.tasks.base import Batch, SyntheticTask
from workers.tasks.copying import NOISE, assemble
from workers.tasks.display import lay_out


class SelectiveCopyingTask(SyntheticTask):
    """Selective copying: `vocab - 2` data tokens, 1 .. vocab-2; chance is 1 / (vocab - 2). Loss at the markers only."""

    def __init__(self, spec: SelectiveCopyingSpec) -> None:
        self.name: str = spec.name
        self.context, self.memorize, self.vocab_size = spec.context, spec.memorize, spec.vocab
        self.seqlen = spec.context + spec.memorize

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `context + memorize` positions; every choice of slots is equally likely."""
        shape = (batch_size, self.memorize)
        data = torch.randint(1, self.vocab_size - 1, shape, generator=generator, device=device)
        # The places of the largest of so many uniform numbers are a uniform choice without replacement. float64: two
        # equal numbers among 4096 are then as good as impossible, and a tie would favour some slots.
        scores = torch.rand(batch_size, self.context, generator=generator, device=device, dtype=torch.float64)
        slots = scores.topk(self.memorize, dim=1, sorted=False).indices.sort(dim=1).values
        return assemble(data, slots, self.context, self.vocab_size - 1)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence: noise as `.`, the marker as `M`, data tokens as numbers."""
        return lay_out(batch, {NOISE: ".", self.vocab_size - 1: "M"})
