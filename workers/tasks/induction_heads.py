"""Induction heads: recall the token that followed the special token the first time.

Layout, with the special token S = vocab-1 and ordinary tokens 0 .. vocab-2:

    inputs   a b c S m d e .. f S
    targets  - - - - - - - .. - m     loss_on = "last"

With loss_on = "all" the target of every position is the next token, and that of the last is m.
Source: Gu & Dao 2023 (arXiv 2312.00752), section 4.1.2; the generator follows H3's prose (arXiv 2212.14052), as the
paper's was not released.
"""

from __future__ import annotations

import torch

from workers.errors import TaskError
from workers.specs import InductionHeadsSpec
from workers.tasks.base import IGNORE, Batch, SyntheticTask
from workers.tasks.display import lay_out


class InductionHeadsTask(SyntheticTask):
    """Induction heads: `vocab - 1` ordinary tokens; chance at the last position is 1 / (vocab - 1)."""

    def __init__(self, spec: InductionHeadsSpec) -> None:
        self.name: str = spec.name
        self.seqlen, self.vocab_size, self.loss_on = spec.seqlen, spec.vocab, spec.loss_on
        # The first S is followed by its token, which is not the last position: places 0 .. seqlen-3.
        self.places = spec.seqlen - 2 if spec.trigger_prefix is None else spec.trigger_prefix
        if self.places > spec.seqlen - 2:
            raise TaskError(
                f"task.trigger_prefix must be at most task.seqlen - 2 = {spec.seqlen - 2}, since the special token, the "
                f"token after it and the query must fit; got {spec.trigger_prefix}. Lower it or raise task.seqlen."
            )

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `seqlen` positions."""
        special = self.vocab_size - 1
        shape = (batch_size, self.seqlen)
        inputs = torch.randint(0, special, shape, generator=generator, device=device)
        trigger = torch.randint(0, self.places, (batch_size, 1), generator=generator, device=device)
        answer = inputs.gather(1, trigger + 1)
        inputs.scatter_(1, trigger, special)
        inputs[:, -1] = special
        targets = torch.full_like(inputs, IGNORE)
        if self.loss_on == "all":
            targets[:, :-1] = inputs[:, 1:]
        targets[:, -1:] = answer
        return Batch(inputs, targets)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence: the special token as `S`, ordinary tokens as numbers."""
        return lay_out(batch, {self.vocab_size - 1: "S"})
