"""The words that the store keeps in its status columns."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

FARTHEST_PRIORITY = 1_000_000  # of a run, either way: a number that SQLite can hold and a person can read


class RunStatus(StrEnum):
    """Where a run stands. Only `running` has an attempt at work."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


def by_status(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many runs have each status, in the order in which a run goes through them; none is left out."""
    return {status.value: counts[status] for status in RunStatus if counts.get(status)}


class AttemptStatus(StrEnum):
    """How one execution of a run stands. `lost`: it vanished without a word (killed, machine gone)."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def of_run(self) -> RunStatus:
        """The status of a run whose last attempt ended so."""
        return RunStatus.FAILED if self is AttemptStatus.LOST else RunStatus(self.value)


class RequestKind(StrEnum):
    """What a user may ask of the controller."""

    CANCEL = "cancel"
    RETRY = "retry"
    PRIORITY = "priority"


class RequestStatus(StrEnum):
    """Where a request stands. `refused` carries the reason in the request's `outcome`."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"
