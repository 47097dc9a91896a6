"""Multi-query associative recall: pairs first, then each key once more, asking for its value.

Layout for two pairs, with filler `.`:

    inputs   k1 v1 k2 v2 k2 .  .  .  k1 .
    targets  -  -  -  -  v2 -  -  -  v1 -

Keys differ, values differ. A query lies 2 g positions behind the pairs, and the gaps g are drawn without replacement
with weights g^(power - 1): with a small power most queries come soon. Source: Arora et al. 2023 (arXiv 2312.04927),
appendix C, as in HazyResearch/zoology (`multiquery_ar.py`). There the training set is fixed; here every batch is new.
With several `kv_pairs` each training sequence has one of these numbers of pairs, drawn anew. With `curriculum` they come
in turn instead, each for an equal share of the run's steps, as in Mamba-2 (Dao & Gu 2024, arXiv 2405.21060, D.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.specs import MqarSpec
from workers.tasks.base import IGNORE, Batch, SyntheticTask
from workers.tasks.display import lay_out

FILLER = 0


class MqarTask(SyntheticTask):
    """MQAR: keys 1 .. vocab/2-1, values vocab/2 .. vocab-1; chance is 1 / (vocab/2). Loss at the queries only.

    With `filler = "random"` the other places hold any token, keys and values among them (Zoology's default): the pairs
    at the start alone decide the answer.
    """

    def __init__(self, spec: MqarSpec) -> None:
        self.name: str = spec.name
        self.seqlen, self.vocab_size, self.power = spec.seqlen, spec.vocab, spec.power
        self.counts, self.most = spec.pair_counts, max(spec.pair_counts)
        self._copies: dict[torch.device, Tensor] = {}
        self.random_filler, self.curriculum = spec.filler == "random", spec.curriculum

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `seqlen` positions; the number of pairs is drawn for each sequence where there are several."""
        if len(self.counts) == 1:  # nothing to draw, and nothing to copy to the device at every step
            return self.held_out(generator, batch_size, device)
        choice = torch.randint(0, len(self.counts), (batch_size, 1), generator=generator, device=device)
        return self._sample(generator, self._counts_on(torch.device(device))[choice], device)

    def sample_at(
        self, generator: torch.Generator, batch_size: int, device: torch.device | str, progress: float
    ) -> Batch:
        """Return a batch with the number of pairs whose turn it is; without a curriculum that of `sample`."""
        if not self.curriculum:
            return self.sample(generator, batch_size, device)
        pairs = torch.full((batch_size, 1), self.counts[self.stage(progress)], device=device)
        return self._sample(generator, pairs, device)

    def stage(self, progress: float) -> int:
        """Return which number of pairs it is the turn of; the first without a curriculum."""
        stages = len(self.counts) if self.curriculum else 1
        # Fractions are compared as they are: a product such as 1/49 * 49 falls short of 1 and would start a stage late.
        return sum(progress >= index / stages for index in range(1, stages))

    def held_out(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return held-out sequences, all with the largest number of pairs."""
        return self._sample(generator, torch.full((batch_size, 1), self.most, device=device), device)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence: zero filler as `.`, keys and values as numbers."""
        return lay_out(batch, {FILLER: "."})

    def _sample(self, generator: torch.Generator, counts: Tensor, device: torch.device | str) -> Batch:
        """Return sequences with `counts` pairs each, (batch, 1). What a sequence has fewer of goes to a spare column."""
        batch_size, half, spare = len(counts), self.vocab_size // 2, self.seqlen
        keys = 1 + _distinct(generator, batch_size, half - 1, self.most, device)
        values = half + _distinct(generator, batch_size, half, self.most, device)
        index = torch.arange(self.most, device=device)
        wanted = index < counts
        queries = torch.where(wanted, 2 * (counts + self._gaps(generator, counts, device)), spare)
        places = torch.where(wanted, 2 * index, spare)
        inputs = keys.new_full((batch_size, self.seqlen + 1), FILLER)
        for at, tokens in ((places, keys), (places + wanted, values), (queries, keys)):
            inputs.scatter_(1, at, tokens)
        targets = torch.full_like(inputs, IGNORE).scatter_(1, queries, values)
        inputs, targets = inputs[:, :spare].contiguous(), targets[:, :spare].contiguous()
        if self.random_filler:
            filler = torch.randint(0, self.vocab_size, inputs.shape, generator=generator, device=device)
            inputs = torch.where(inputs == FILLER, filler, inputs)
        return Batch(inputs, targets)

    def _counts_on(self, device: torch.device) -> Tensor:
        """Return the numbers of pairs on a device, copied there once: a copy waits for the device."""
        if device not in self._copies:
            self._copies[device] = torch.tensor(self.counts, device=device)
        return self._copies[device]

    def _gaps(self, generator: torch.Generator, counts: Tensor, device: torch.device | str) -> Tensor:
        """Return `most` different gaps for each sequence, in the order drawn.

        The largest of log weight plus Gumbel noise are a draw without replacement (Vieira 2014), in one pass.
        """
        gaps = torch.arange((self.seqlen - 2 * min(self.counts)) // 2, device=device)
        weights = (self.power - 1) * (gaps + 1).double().log()
        uniform = torch.rand(len(counts), len(gaps), generator=generator, device=device, dtype=torch.float64)
        scores = weights - (-uniform.clamp(min=1e-300).log()).log()
        fits = gaps < self.seqlen // 2 - counts
        return scores.masked_fill(~fits, -torch.inf).topk(self.most, dim=1).indices


def _distinct(generator: torch.Generator, rows: int, size: int, count: int, device: torch.device | str) -> Tensor:
    """Return `count` different numbers below `size` for each row, every ordered choice equally likely."""
    scores = torch.rand(rows, size, generator=generator, device=device, dtype=torch.float64)
    return scores.topk(count, dim=1).indices
