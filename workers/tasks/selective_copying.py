"""Selective copying: the data tokens stand at random places in the noise, so a model must choose what to keep.

Layout, with m = `memorize`, noise 0 and marker M = vocab-1:

    inputs   0 d1 0 0 d2 .. 0 dm 0 | M M .. M      `context` slots, then m markers
    targets  - -  - - -  .. - -  - | d1 d2 .. dm

`layout = "blank"` asks with noise instead of markers. `layout = "mad"` is the task of MAD (Poli et al. 2024,
arXiv 2403.17844; athms/mad-lab), with the blank b = vocab-2 and one copy token M = vocab-1 before the answers:

    inputs   b d1 b b d2 .. b dm b M | b b .. b
    targets  - -  - - -  .. - -  - - | d1 d2 .. dm

Source: Gu & Dao 2023 (arXiv 2312.00752), section 4.1.1, whose code was not released; the layout is that of the same
author's copying task in the S4 repository with `variable=True`, except that `context` counts data and noise together.
"""

from __future__ import annotations

import torch

from workers.specs import SelectiveCopyingSpec
from workers.tasks.base import IGNORE, Batch, SyntheticTask
from workers.tasks.copying import NOISE, assemble
from workers.tasks.display import lay_out


class SelectiveCopyingTask(SyntheticTask):
    """Selective copying: `vocab - 2` data tokens, one more in the layout "blank"; chance is one in so many.

    Loss at the last `memorize` positions only.
    """

    def __init__(self, spec: SelectiveCopyingSpec) -> None:
        self.name: str = spec.name
        self.context, self.memorize, self.vocab_size = spec.context, spec.memorize, spec.vocab
        self.layout = spec.layout
        self.seqlen = spec.context + spec.memorize + (spec.layout == "mad")

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `context + memorize` positions; every choice of slots is equally likely."""
        shape = (batch_size, self.memorize)
        low, high = {
            "markers": (1, self.vocab_size - 1),
            "blank": (1, self.vocab_size),
            "mad": (0, self.vocab_size - 2),
        }[self.layout]
        data = torch.randint(low, high, shape, generator=generator, device=device)
        # The places of the largest of so many uniform numbers are a uniform choice without replacement. float64: two
        # equal numbers among 4096 are then as good as impossible, and a tie would favour some slots.
        scores = torch.rand(batch_size, self.context, generator=generator, device=device, dtype=torch.float64)
        slots = scores.topk(self.memorize, dim=1, sorted=False).indices.sort(dim=1).values
        if self.layout == "mad":
            return self._with_copy_token(assemble(data, slots, self.context, self._blank, noise=self._blank))
        return assemble(data, slots, self.context, NOISE if self.layout == "blank" else self.vocab_size - 1)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence: noise as `.`, the marker or copy token as `M`, data tokens as numbers."""
        noise = self._blank if self.layout == "mad" else NOISE
        marker = {} if self.layout == "blank" else {self.vocab_size - 1: "M"}
        return lay_out(batch, {noise: ".", **marker})

    @property
    def _blank(self) -> int:
        return self.vocab_size - 2

    def _with_copy_token(self, batch: Batch) -> Batch:
        """Put the copy token between the context and the answers."""
        inputs, targets = (
            torch.cat((part[:, : self.context], part.new_full((len(part), 1), token), part[:, self.context :]), dim=1)
            for part, token in zip(batch, (self.vocab_size - 1, IGNORE), strict=True)
        )
        return Batch(inputs, targets)
