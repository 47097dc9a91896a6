"""What a task is: batches to train on, a held-out stream, and totals that become metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100
"""Target of a position without supervision; `torch.nn.functional.cross_entropy` ignores it by default."""

EVALUATION_CHUNK = 16  # held-out sequences are drawn so many at a time, whatever the batch size


class Batch(NamedTuple):
    """Tokens and what to predict: int64 of shape (batch, seqlen); a target is a token or `IGNORE`."""

    inputs: Tensor
    targets: Tensor

    def cut(self, parts: int) -> list[Batch]:
        """Return the sequences in order as so many batches of one size; `parts` divides their number."""
        return [
            Batch(inputs, targets)
            for inputs, targets in zip(self.inputs.chunk(parts), self.targets.chunk(parts), strict=True)
        ]


class EvalTotals:
    """Sums over an evaluation, kept on the device so that adding a batch does not wait for it.

    `loss` sums nats over supervised positions (float64); `right` counts those predicted right of `tokens`;
    `sequences_right` counts the sequences whose every supervised position is right, of `sequences`. With `members` (K,) K models
    read the same sequences, and `loss`, `right` and `sequences_right` have a number each.
    """

    def __init__(self, device: torch.device | str = "cpu", members: tuple[int, ...] = ()) -> None:
        self.members = members
        self.loss = torch.zeros(members, dtype=torch.float64, device=device)
        self.right, self.sequences_right = (torch.zeros(members, dtype=torch.int64, device=device) for _ in range(2))
        self.tokens, self.sequences = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add one batch: logits (*members, batch, seqlen, vocab), targets (batch, seqlen)."""
        self.add_pieces([(logits, targets)])

    def add_pieces(self, pieces: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Add one batch that comes as consecutive pieces of its sequences, each as in `add`."""
        flawless: Tensor | bool = True
        counted: Tensor | bool = False
        for logits, targets in pieces:
            sought = targets.expand(logits.shape[:-1])
            losses = F.cross_entropy(logits.flatten(0, -2), sought.flatten(), ignore_index=IGNORE, reduction="none")
            self.loss += losses.view(sought.shape).sum((-2, -1), dtype=torch.float64)
            supervised = targets != IGNORE
            right = logits.argmax(-1) == targets  # IGNORE is no token: such positions are never right
            self.right += right.sum((-2, -1))
            self.tokens += supervised.sum()
            counted = supervised.any(-1) | counted
            flawless = (right | ~supervised).all(-1) & flawless
        if isinstance(counted, Tensor):
            self.sequences_right += (flawless & counted).sum(-1)
            self.sequences += counted.sum()

    def each(self) -> list[EvalTotals]:
        """Return every member's totals on the host, those of one model as a list of one; one wait for all."""
        own = [one.double().reshape(-1) for one in (self.loss, self.right, self.sequences_right)]
        shared = torch.stack([self.tokens, self.sequences]).double()  # counts below 2^53 stay what they are
        numbers = torch.cat([*own, shared]).cpu()
        members = own[0].numel()
        return [_totals(numbers[place : 3 * members : members], numbers[-2:]) for place in range(members)]


def _totals(own: Tensor, shared: Tensor) -> EvalTotals:
    totals = EvalTotals()
    totals.loss, (totals.right, totals.sequences_right) = own[0], own[1:].long().unbind()
    totals.tokens, totals.sequences = shared.long().unbind()
    return totals


class Task(Protocol):
    """A source of data. A model sees `vocab_size` tokens in sequences of `seqlen` positions."""

    name: str
    vocab_size: int
    seqlen: int

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a training batch; equal generator states give equal batches, bit for bit, on one kind of device."""

    def evaluation(self, seed: int, batches: int, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """Yield held-out batches. The sequences depend on `seed` alone, not on how they are cut into batches."""

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """Return the metrics of an evaluation by name, `valid/loss` among them."""

    def describe(self, batch: Batch) -> str:
        """Return the batch's first sequence as text that a person can check."""


@runtime_checkable
class Curriculum(Protocol):
    """What a task has besides `Task` if its training data may change in the course of a run."""

    def sample_at(
        self, generator: torch.Generator, batch_size: int, device: torch.device | str, progress: float
    ) -> Batch:
        """Return the training batch of a step; `progress` is the share of the run's steps before it, from 0 to below 1.

        It depends on nothing else, so that a resumed run goes on where it was.
        """

    def stage(self, progress: float) -> Hashable:
        """Return what the progress decides: wherever it is equal, `sample_at` does the same with other random numbers."""


@runtime_checkable
class HostData(Protocol):
    """What a task has besides `Task` if its batches may come out of host memory."""

    def waits_for_host(self, device: torch.device) -> bool:
        """Say whether a batch for a device is gathered on the host, which a step would wait for."""


def mean_metrics(totals: EvalTotals) -> dict[str, float]:
    """Return loss (nats a supervised position), accuracy (share of positions) and sequence accuracy (exact match).

    Raises:
        ValueError: nothing was evaluated.
    """
    tokens, sequences = int(totals.tokens), int(totals.sequences)
    if tokens == 0:
        raise ValueError("no supervised position was evaluated: metrics need at least one batch")
    return {
        "valid/loss": float(totals.loss) / tokens,
        "valid/accuracy": int(totals.right) / tokens,
        "valid/sequence_accuracy": int(totals.sequences_right) / sequences,
    }


class SyntheticTask:
    """Shared half of the generated tasks: a subclass gives `name`, `vocab_size`, `seqlen`, `sample` and `describe`.

    Held-out sequences come in chunks of `EVALUATION_CHUNK`. Chunk k is drawn from a generator of its own, seeded with
    the first 63 bits of SHA-256 over "evaluation/<task>/<seed>/<k>" and advanced by one draw. A training stream that
    happened on the same seed would therefore still read other numbers of it: no training batch is a held-out one.
    (Single sequences of a task with few possible sequences repeat by chance, as in any sample.)
    """

    name: str
    vocab_size: int
    seqlen: int

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a training batch."""
        raise NotImplementedError

    def evaluation(self, seed: int, batches: int, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """Yield `batches` held-out batches, the same for the same seed."""
        chunks = self._evaluation_chunks(seed, device)
        return recut(chunks, batches, batch_size)

    def held_out(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return held-out sequences; a training batch of another stream unless a subclass evaluates something harder."""
        return self.sample(generator, batch_size, device)

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """Return `valid/loss`, `valid/accuracy` and `valid/sequence_accuracy`."""
        return mean_metrics(totals)

    def _evaluation_chunks(self, seed: int, device: torch.device | str) -> Iterator[Batch]:
        generator = torch.Generator(device)
        index = 0
        while True:
            generator.manual_seed(evaluation_seed(self.name, seed, index))
            torch.rand(1, generator=generator, device=device)
            yield self.held_out(generator, EVALUATION_CHUNK, device)
            index += 1


def evaluation_seed(task: str, seed: int, chunk: int) -> int:
    """Return the 63-bit seed of one chunk of a held-out stream."""
    digest = hashlib.sha256(f"evaluation/{task}/{seed}/{chunk}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def recut(chunks: Iterator[Batch], batches: int, batch_size: int) -> Iterator[Batch]:
    """Cut a stream of chunks into batches of one size; draws no more chunks than needed."""
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    held = 0
    for _ in range(batches):
        while held < batch_size:
            chunk = next(chunks)
            inputs.append(chunk.inputs)
            targets.append(chunk.targets)
            held += len(chunk.inputs)
        all_inputs, all_targets = torch.cat(inputs), torch.cat(targets)
        yield Batch(all_inputs[:batch_size], all_targets[:batch_size])
        inputs, targets = [all_inputs[batch_size:]], [all_targets[batch_size:]]
        held -= batch_size
