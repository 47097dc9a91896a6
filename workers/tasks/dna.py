"""Next-base prediction on a FASTA file: the tokens are A, C, G, T and N.

Header lines are left out and lower case (masked repeats) is read as upper case; other letters of IUPAC, which stand for
several bases, are N, and so is what separates two records. As in `text`, the last `valid_fraction` is held out. Source:
Gu & Dao 2023 (arXiv 2312.00752), section 4.3, after HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794), whose special tokens
no window contains.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from workers.errors import TaskError
from workers.tasks.base import Batch, EvalTotals
from workers.tasks.bytestream import ByteStream
from workers.tasks.text import TextTask

BASES = "ACGTN"
_N, _INVALID = 4, 255
_AMBIGUOUS = b"RYKMSWBDHVUX-."  # IUPAC's codes for several bases, RNA's U, and gaps
_READ_AT_ONCE = 1 << 24  # bytes


class DnaTask(TextTask):
    """Predict the next base; chance is near 1/4. Raises TaskError where the file is missing, too small or no FASTA."""

    vocab_size = len(BASES)
    unit = "bases"

    def metrics(self, totals: EvalTotals) -> dict[str, float]:
        """Return `valid/loss` (nats a base), `valid/accuracy`, `valid/bpb` (bits a base) and `valid/perplexity`."""
        return super().metrics(totals)

    def describe(self, batch: Batch) -> str:
        """Return the first window's inputs and targets as bases."""
        rows = (("inputs ", batch.inputs[0]), ("targets", batch.targets[0]))
        return "\n".join(f"{label} {''.join(BASES[token] for token in tokens)}" for label, tokens in rows)

    def _open(self, path: Path) -> ByteStream:
        return BaseStream(path)


class BaseStream(ByteStream):
    """The bases of a FASTA file as numbers 0 .. 4, in memory, one byte each."""

    def __init__(self, path: Path) -> None:
        self._resident: dict[torch.device, Tensor] = {}
        try:
            bases = _read(path)
        except OSError as error:
            raise TaskError(f"task.path {str(path)!r} cannot be read: {error}. Name a FASTA file.") from error
        if not bases:
            raise TaskError(f"task.path {str(path)!r} holds no base. Name a FASTA file.")
        self._hold([torch.frombuffer(bases, dtype=torch.uint8)])


def _read(path: Path) -> bytearray:
    """Return the file's bases. In FASTA `>` stands at the start of a header only, which ends with its line."""
    bases, header = bytearray(), False
    with path.open("rb") as file:
        while block := file.read(_READ_AT_ONCE):
            place = 0
            while place < len(block):
                end = block.find(b"\n" if header else b">", place)
                end = len(block) if end < 0 else end
                if not header:
                    bases += _tokens(block[place:end], path)
                if end < len(block):
                    header = not header
                    if header and bases:
                        bases.append(_N)
                place = end + 1
    return bases


def _tokens(sequence: bytes, path: Path) -> bytes:
    tokens = sequence.translate(_TABLE, b"\r\n\t ")
    wrong = tokens.find(_INVALID)
    if wrong >= 0:
        letter = bytes(byte for byte in sequence if byte not in b"\r\n\t ")[wrong : wrong + 1]
        raise TaskError(f"task.path {str(path)!r} is no FASTA file of DNA: it holds {letter!r} among the bases.")
    return tokens


def _table() -> bytes:
    table = bytearray([_INVALID] * 256)
    for letters, token in ((_AMBIGUOUS, _N), *((base.encode(), token) for token, base in enumerate(BASES))):
        for letter in letters + letters.lower():
            table[letter] = token
    return bytes(table)


_TABLE = _table()
