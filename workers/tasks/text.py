"""Byte-level language modelling on a text file or a folder of them; without a path, on the bundled Shakespeare.

A token is a byte (`vocab_size` 256), a target the next byte. The last `valid_fraction` of the bytes is held out; the
files of a folder are joined in the order of their paths first. Training windows start anywhere before the split and
end before it; held-out windows tile what follows it, in an order that the seed shuffles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from workers.errors import TaskError
from workers.specs import DnaSpec, TextSpec
from workers.tasks.base import Batch, EvalTotals, evaluation_seed, mean_metrics
from workers.tasks.bytestream import ByteStream

CORPORA = Path(__file__).parent / "corpora"
BUNDLED = CORPORA / "shakespeare.txt"


class TextTask:
    """Predict the next byte. Raises TaskError where the path is missing, empty, binary or too small."""

    vocab_size = 256
    unit = "bytes"

    def __init__(self, spec: TextSpec | DnaSpec) -> None:
        self.name: str = spec.name
        self.seqlen = spec.seqlen
        self.path = BUNDLED if spec.path is None else Path(spec.path).expanduser()
        self._bytes = self._open(self.path)
        total, window = len(self._bytes), spec.seqlen + 1
        self.split = total - round(total * spec.valid_fraction)
        for part, size in (("training", self.split), ("held-out", total - self.split)):
            if size < window:
                raise TaskError(
                    f"task.path {str(self.path)!r} is too small: its {part} part has {size} of {total} {self.unit} and a window "
                    f"needs {window} (task.seqlen + 1). Use a longer file, a smaller task.seqlen or another "
                    f"task.valid_fraction (now {spec.valid_fraction})."
                )
        self.heldout_windows = (total - self.split - 1) // spec.seqlen

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return windows that start at uniformly drawn places of the training part."""
        highest = self.split - self.seqlen  # exclusive: the last target is the byte before the split
        starts = torch.randint(0, highest, (batch_size,), generator=generator, device=device)
        return self._windows(starts, device)

    def evaluation(self, seed: int, batches: int, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """Yield held-out windows that do not share a target; once all have been seen they come again."""
        generator = torch.Generator().manual_seed(evaluation_seed(self.name, seed, 0))
        order = torch.randperm(self.heldout_windows, generator=generator)
        for batch in range(batches):
            places = torch.arange(batch * batch_size, (batch + 1) * batch_size) % self.heldout_windows
            yield self._windows(self.split + order[places] * self.seqlen, device)

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """Return `valid/loss` (nats a byte), `valid/accuracy`, `valid/bpb` (bits) and `valid/perplexity` of a byte."""
        metrics = mean_metrics(totals)
        del metrics["valid/sequence_accuracy"]  # nobody predicts a whole window of text
        loss = metrics["valid/loss"]
        perplexity = math.inf if loss > 700 else math.exp(loss)  # exp overflows a float64 above 709
        return {**metrics, "valid/bpb": loss / math.log(2), "valid/perplexity": perplexity}

    def describe(self, batch: Batch) -> str:
        """Return the first window's inputs and targets as text; bytes that are no UTF-8 appear as `\\x..`."""
        rows = (("inputs ", batch.inputs[0]), ("targets", batch.targets[0]))
        return "\n".join(f"{label} {_decode(tokens)!r}" for label, tokens in rows)

    def _open(self, path: Path) -> ByteStream:
        return ByteStream(path)

    def _windows(self, starts: Tensor, device: torch.device | str) -> Batch:
        window = self._bytes.read(starts, self.seqlen + 1, device)
        return Batch(window[:, :-1], window[:, 1:])


def _decode(tokens: Tensor) -> str:
    return bytes(tokens.tolist()).decode("utf-8", errors="backslashreplace")
