"""How text becomes tokens: its bytes, or a file of Hugging Face's `tokenizers` that the user supplies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from workers.errors import TaskError

_ENDS = ("<|endoftext|>", "</s>", "<eos>", "<s>", "<bos>")  # what the usual files call the border between two texts


class Tokenizer(Protocol):
    """Text to tokens below `vocab_size` and back. `prefix` may stand before a text's first token, where there is one."""

    vocab_size: int
    prefix: int | None

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens, none added at its start or end."""

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens; what is no whole character appears as `\\x..` or a replacement sign."""


class ByteTokenizer:
    """A token is a byte of UTF-8; the end of a line stands before a text."""

    vocab_size = 256
    prefix: int | None = ord("\n")

    def encode(self, text: str) -> list[int]:
        """Return a text's bytes."""
        return list(text.encode("utf-8"))

    def decode(self, tokens: list[int]) -> str:
        """Return the text of bytes; those that are no UTF-8 appear as `\\x..`."""
        return bytes(tokens).decode("utf-8", errors="backslashreplace")


class FileTokenizer:
    """A `tokenizer.json` as Hugging Face's `tokenizers` writes it: BPE, Unigram or WordPiece.

    `vocab_size` is one more than the highest token, so that ids with gaps in between fit, too. `prefix` is the end-of-text
    token under one of its usual names.

    Raises:
        TaskError: the file or the package `tokenizers` is missing, or the file is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._backend = _load(path)
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        known = (self._backend.token_to_id(name) for name in _ENDS)
        self.prefix: int | None = next((token for token in known if token is not None), None)
        if self.vocab_size == 0:
            raise TaskError(f"tokenizer {str(path)!r} knows no token. Name a trained one.")

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens, without those that a template would put around it."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """Return a text's tokens and the character that each starts at."""
        encoded = self._backend.encode(text, add_special_tokens=False)
        return list(encoded.ids), [start for start, _ in encoded.offsets]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self._backend.decode(tokens, skip_special_tokens=False))


def open_tokenizer(path: str | None) -> Tokenizer:
    """Return the tokenizer of a file, or bytes where none is named.

    Raises:
        TaskError: see `FileTokenizer`.
    """
    return ByteTokenizer() if path is None else FileTokenizer(Path(path).expanduser())


def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer as Backend
    except ImportError as error:
        raise TaskError(
            f"tokenizer {str(path)!r} needs the package tokenizers, which is not installed: pip install 'mambalab[text]'"
        ) from error
    if not path.is_file():
        raise TaskError(
            f"tokenizer {str(path)!r} is no file, seen from {str(Path.cwd())!r}. Name a tokenizer.json, or none for bytes."
        )
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:
        raise TaskError(f"tokenizer {str(path)!r} cannot be read: {error}. Expected a tokenizer.json.") from error
    backend.no_truncation()  # a file may ask for both, which are a classifier's business
    backend.no_padding()
    return backend
