"""How many sequences and positions are computed at once where sequences are read: few enough for memory, enough for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.models import LanguageModel
from workers.specs import ModelSpec

PIECE_TOKENS = 2**15  # positions of all sequences of a batch that are computed at once on a CPU
PIECE_TOKENS_CUDA = 2**18  # with fewer, a GPU waits for the host
PIECE_WIDTH = 256  # narrower models take as many more
PIECE_LOGITS = 2**26  # and numbers that the head may give at once: 256 MiB in fp32
DRAWN = 2**25  # positions of one batch on a GPU, half a GiB of tokens and targets, where its batches are merged
LONG_ROWS = 32  # sequences that are read in pieces side by side: with fewer, a GPU has too few states to advance


@dataclass(frozen=True, slots=True)
class Cut:
    """How held-out sequences are read: `merged` batches drawn as one, `rows` of its sequences at once, so many positions each."""

    merged: int
    rows: int
    piece: int

    @property
    def at_once(self) -> int:
        """How many positions of all sequences are computed at once."""
        return self.rows * self.piece


def positions(spec: ModelSpec, vocab_size: int, device: torch.device) -> int:
    """Return how many positions of all sequences of one model are computed at once."""
    if device.type != "cuda":
        return max(1, min(PIECE_TOKENS, PIECE_LOGITS // vocab_size))
    narrow = 1 if remembers_everything(spec) else max(1, PIECE_WIDTH // spec.d_model)
    return max(1, min(PIECE_TOKENS_CUDA * narrow, PIECE_LOGITS // vocab_size))


def cut_stream(batches: tuple[int, int], seqlen: int, most: int, device: torch.device, *, whole: bool) -> Cut:
    """Return how so many batches of such a size are read, if possible with at most so many positions at once.

    On a GPU batches are merged as far as they fit: few short sequences leave it to the host's pace. `whole`: a sequence can not
    be read in pieces.
    """
    count, size = batches
    rows, times = max(1, most // seqlen), 1
    if device.type == "cuda":
        times = merged(count, size, rows if whole else max(rows, min(LONG_ROWS, DRAWN // seqlen)))
    if whole:
        return Cut(times, min(rows, times * size), seqlen)
    return Cut(times, times * size, min(seqlen, max(1, most // (times * size))))


def merged(count: int, size: int, rows: int) -> int:
    """Return how many of `count` batches of a size are read as one so that it has at most `rows` sequences, if one has."""
    return max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * size <= rows))


def cut(model: LanguageModel, batch: int, seqlen: int, device: torch.device) -> tuple[int, int]:
    """Return how many sequences of a batch, and how many positions of each, are computed at once."""
    most = positions(model.spec, model.vocab_size, device)
    how = cut_stream((1, batch), seqlen, most, device, whole=remembers_everything(model.spec))
    return how.rows, how.piece


def remembers_everything(spec: ModelSpec) -> bool:
    """Say whether a model's memory grows with the sequence: attention's cache, or Hyena's inputs."""
    return any(layer.mixer == "attention" or layer.inner == "hyena" for layer in spec.layers())
