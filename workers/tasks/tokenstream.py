"""Random access to the tokens of a corpus, held in memory as four bytes each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from workers.errors import TaskError
from workers.tasks.bytestream import ByteStream
from workers.tasks.tokenizer import FileTokenizer

_BLOCK = 1 << 20  # bytes that are tokenized at once; a block ends with a line


class TokenStream(ByteStream):
    """The tokens of a file or folder, as `ByteStream` joins its bytes; lines are never torn apart while tokenizing.

    Raises:
        TaskError: what `ByteStream` and `FileTokenizer` refuse, or text that is not UTF-8.
    """

    def __init__(self, path: Path, tokenizer: FileTokenizer) -> None:
        super().__init__(path)
        stamp = tokenizer.path.stat()
        tokens, self._places = _tokenized(
            _Corpus(path, self._parts), tokenizer.path, (stamp.st_mtime_ns, stamp.st_size)
        )
        self.bytes = sum(part.numel() for part in self._parts)
        self._hold([tokens])

    def bytes_from(self, token: int) -> int:
        """Return how many bytes of the corpus lie behind the start of a token."""
        return self.bytes - (int(self._places[token]) if token < len(self) else self.bytes)


class _Corpus:
    """A corpus as a key: two are the same where path and size are."""

    def __init__(self, path: Path, parts: list[Tensor]) -> None:
        self.path, self.parts = path, parts
        self._key = (str(path.absolute()), tuple(part.numel() for part in parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Corpus) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def blocks(self) -> Iterator[tuple[int, str]]:
        """Yield (first byte, text) of pieces that end with a line, each file's own.

        Raises:
            TaskError: a file is not UTF-8.
        """
        origin = 0
        for part in self.parts:
            data, start = part.numpy().tobytes(), 0
            while start < len(data):
                end = data.find(b"\n", min(start + _BLOCK, len(data)) - 1) + 1 or len(data)
                try:
                    yield origin + start, data[start:end].decode("utf-8")
                except UnicodeDecodeError as error:
                    raise TaskError(
                        f"task.path {str(self.path)!r}: byte {start + error.start} of a file is no UTF-8, which a tokenizer "
                        "needs. Convert it, or leave out task.tokenizer to read bytes."
                    ) from error
                start = end
            origin += len(data)


@lru_cache(maxsize=2)  # a run builds its task anew for each length that it is evaluated at
def _tokenized(corpus: _Corpus, path: Path, stamp: tuple[int, int]) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Return a corpus' tokens (int32) and the byte that each starts at (int64)."""
    tokenizer = FileTokenizer(path)
    tokens: list[Tensor] = []
    places: list[Tensor] = []
    for origin, text in corpus.blocks():
        ids, starts = tokenizer.encode_with_starts(text)
        tokens.append(torch.tensor(ids, dtype=torch.int32))
        places.append(origin + _bytes_before(text)[torch.tensor(starts, dtype=torch.int64)])
    return torch.cat(tokens), torch.cat(places)


def _bytes_before(text: str) -> Tensor:
    """Return for each character of a text, and its end, the bytes of UTF-8 before it."""
    if text.isascii():
        return torch.arange(len(text) + 1)
    sizes = [1 if sign < "\x80" else 2 if sign < "\u0800" else 3 if sign < "\U00010000" else 4 for sign in text]
    return torch.tensor([0, *sizes]).cumsum(0)
