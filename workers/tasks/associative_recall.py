"""Associative recall: pairs of a key and its value, then one key again.

Layout, with the query sign Q = vocab-1, keys 0 .. vocab/2-1 and values vocab/2 .. vocab-2:

    inputs   k3 v1 k1 v7 k3 v1 .. k5 v2 Q k1
    targets  -  -  -  -  -  -  .. -  -  - v7     loss_on = "last"

Keys repeat, always with the same value within a sequence; the query is one of the keys that occurred. With
loss_on = "all" the target of every other position is the next token, which for values of keys seen before is
predictable. Source: safari's `assoc_recall` (HazyResearch/safari), used by Fu et al. 2023 (arXiv 2212.14052) and Poli
et al. 2023 (arXiv 2302.10866).
"""

from __future__ import annotations

import torch

from workers.specs import AssociativeRecallSpec
from workers.tasks.base import IGNORE, Batch, SyntheticTask
from workers.tasks.display import lay_out


class AssociativeRecallTask(SyntheticTask):
    """Associative recall: `vocab/2` keys, `vocab/2 - 1` values; chance at the last position is 1 / (vocab/2 - 1)."""

    def __init__(self, spec: AssociativeRecallSpec) -> None:
        self.name: str = spec.name
        self.pairs, self.vocab_size, self.loss_on = spec.pairs, spec.vocab, spec.loss_on
        self.seqlen = 2 * spec.pairs + 2

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `2 pairs + 2` positions."""
        half, sign = self.vocab_size // 2, self.vocab_size - 1
        shape = (batch_size, half)
        value_of = torch.randint(half, sign, shape, generator=generator, device=device)
        keys = torch.randint(0, half, (batch_size, self.pairs), generator=generator, device=device)
        asked = torch.randint(0, self.pairs, (batch_size, 1), generator=generator, device=device)
        query = keys.gather(1, asked)
        pairs = torch.stack((keys, value_of.gather(1, keys)), dim=-1).flatten(1)
        inputs = torch.cat((pairs, torch.full_like(query, sign), query), dim=1)
        targets = torch.full_like(inputs, IGNORE)
        if self.loss_on == "all":
            targets[:, :-1] = inputs[:, 1:]
        targets[:, -1:] = value_of.gather(1, query)
        return Batch(inputs, targets)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence: the query sign as `Q`, keys and values as numbers."""
        return lay_out(batch, {self.vocab_size - 1: "Q"})
