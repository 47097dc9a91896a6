"""Language modelling on a text file or a folder of them; without a path, on the bundled Shakespeare.

A token is a byte (`vocab_size` 256), or what the user's tokenizer file makes of the text; a target is the next token. The
last `valid_fraction` of the tokens is held out; the files of a folder are joined in the order of their paths first.
Training windows start anywhere before the split and end before it; held-out windows tile what follows it, in an order
that the seed shuffles.
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
from workers.tasks.tokenizer import ByteTokenizer, FileTokenizer, open_tokenizer
from workers.tasks.tokenstream import TokenStream

CORPORA = Path(__file__).parent / "corpora"
BUNDLED = CORPORA / "shakespeare.txt"


class TextTask:
    """Predict the next byte or token. Raises TaskError where the path is missing, empty, binary or too small.

    `tokenizer_path` is the tokenizer's file, or None for bytes.
    """

    vocab_size = 256
    unit = "bytes"

    def __init__(self, spec: TextSpec | DnaSpec) -> None:
        self.name: str = spec.name
        self.seqlen = spec.seqlen
        self.path = BUNDLED if spec.path is None else Path(spec.path).expanduser()
        self._tokenizer = open_tokenizer(spec.tokenizer) if isinstance(spec, TextSpec) else ByteTokenizer()
        self.tokenizer_path: Path | None = None
        if isinstance(self._tokenizer, FileTokenizer):
            self.tokenizer_path, self.unit = self._tokenizer.path, "tokens"
            self.vocab_size = self._tokenizer.vocab_size
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
        self.bytes_per_token = self._heldout_bytes() / (total - self.split)

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return windows that start at uniformly drawn places of the training part."""
        highest = self.split - self.seqlen  # exclusive: the last target is the byte before the split
        starts = torch.randint(0, highest, (batch_size,), generator=generator, device=device)
        return self._windows(starts, device)

    def waits_for_host(self, device: torch.device) -> bool:
        """Say whether the corpus is too large for the device's own memory, so that the host gathers each batch."""
        return self._bytes.on_host(device)

    def evaluation(self, seed: int, batches: int, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """Yield held-out windows that do not share a target; once all have been seen they come again."""
        generator = torch.Generator().manual_seed(evaluation_seed(self.name, seed, 0))
        order = torch.randperm(self.heldout_windows, generator=generator)
        for batch in range(batches):
            places = torch.arange(batch * batch_size, (batch + 1) * batch_size) % self.heldout_windows
            yield self._windows(self.split + order[places] * self.seqlen, device)

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """Return `valid/loss` (nats a token), `valid/accuracy`, `valid/bpb` (bits a byte) and `valid/perplexity` of a token.

        Bits a byte are those a token over the held-out part's mean number of bytes a token, so that they compare
        across tokenizers; with bytes that number is 1.
        """
        metrics = mean_metrics(totals)
        del metrics["valid/sequence_accuracy"]  # nobody predicts a whole window of text
        loss = metrics["valid/loss"]
        perplexity = math.inf if loss > 700 else math.exp(loss)  # exp overflows a float64 above 709
        return {**metrics, "valid/bpb": loss / math.log(2) / self.bytes_per_token, "valid/perplexity": perplexity}

    def describe(self, batch: Batch) -> str:
        """Return the first window's inputs and targets as text; bytes that are no UTF-8 appear as `\\x..`.

        With a tokenizer, each token stands by itself, and its number follows.
        """
        rows = (("inputs ", batch.inputs[0].tolist()), ("targets", batch.targets[0].tolist()))
        if self.tokenizer_path is None:
            return "\n".join(f"{label} {self._tokenizer.decode(tokens)!r}" for label, tokens in rows)
        lines = [
            f"{label} {' '.join(repr(self._tokenizer.decode([token])) for token in tokens)}" for label, tokens in rows
        ]
        return "\n".join([*lines, *(f"{label} {' '.join(str(token) for token in tokens)}" for label, tokens in rows)])

    def _open(self, path: Path) -> ByteStream:
        if isinstance(self._tokenizer, FileTokenizer):
            return TokenStream(path, self._tokenizer)
        return ByteStream(path)

    def _heldout_bytes(self) -> int:
        if isinstance(self._bytes, TokenStream):
            return self._bytes.bytes_from(self.split)
        return len(self._bytes) - self.split

    def _windows(self, starts: Tensor, device: torch.device | str) -> Batch:
        window = self._bytes.read(starts, self.seqlen + 1, device)
        return Batch(window[:, :-1], window[:, 1:])
