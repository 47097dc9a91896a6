"""What can go wrong with the store. Every message says what, got, expected, and what to do.

StorageError
    StoreMissing       no store there, or a file that is none
    SchemaTooNew       written by a newer mambalab
    SchemaTooOld       not migrated yet
    StoreLocked        another process held it for longer than the timeout
    NotFound           no run or ablation of that name
    AmbiguousPrefix    several of them
    QueryFailed        a user's SQL that does not run
        NotReadOnly    a user's SQL that would write
    Conflict           a write that contradicts what is stored
"""

from __future__ import annotations

from collections.abc import Sequence


class StorageError(Exception):
    """Base of what the store raises."""


class StoreMissing(StorageError):
    """There is no store at the path."""


class SchemaTooNew(StorageError):
    """The store was written by a newer version."""


class SchemaTooOld(StorageError):
    """The store waits for a migration."""


class StoreLocked(StorageError):
    """Another process holds the store."""


class NotFound(StorageError):
    """Nothing in the store has that name."""

    @classmethod
    def no_ablation(cls, ablation_id: str) -> NotFound:
        """Return the error for an id that no ablation has."""
        return cls(f"no ablation has the id {ablation_id!r}. `mambalab ls ablations` lists them.")


class AmbiguousPrefix(StorageError):
    """A prefix that several ids share; `candidates` lists them."""

    def __init__(self, prefix: str, candidates: Sequence[str]) -> None:
        shown = ", ".join(candidates[:8]) + (", ..." if len(candidates) > 8 else "")
        super().__init__(f"{prefix!r} is the start of {len(candidates)} ids: {shown}. Type more characters.")
        self.candidates = tuple(candidates)


class QueryFailed(StorageError):
    """A user's SQL that does not run: a syntax error, an unknown column, too long, or too large."""


class NotReadOnly(QueryFailed):
    """A user's SQL that would change the store or the connection."""


class Conflict(StorageError):
    """A write that contradicts what is stored."""
