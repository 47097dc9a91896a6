"""What the controller asks of whatever runs attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workers.jobs.attempt import AttemptSpec

State = Literal["running", "exited", "gone"]


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: the executor's name for it, CPUs, whole GPUs, and where it is, for people."""

    name: str
    cpus: float
    gpus: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is in total, whether or not it is in use."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Report:
    """What is new about an attempt.

    Attributes:
        state: `running` (or about to), `exited` (the worker ended), `gone` (it vanished, and nobody can say how).
        exit_code: of an ended worker, minus the signal's number where one killed it; None where that is not known.
        spool: whole lines from the cursor that was asked for; empty does not mean that none will come.
        cursor: byte offset after them.
        result: the worker's result.json once it ended; None where it left none.
        detail: what the executor knows about a `gone` attempt, for the record.
    """

    state: State
    exit_code: int | None = None
    spool: bytes = b""
    cursor: int = 0
    result: Mapping[str, Any] | None = None
    detail: str = ""

    @property
    def final(self) -> bool:
        """Whether the worker has ended and its spool is drained to the end."""
        return self.state != "running" and not self.spool


class Executor(Protocol):
    """Runs attempts somewhere. Calls come from one thread and return within milliseconds, `close` apart."""

    name: str

    def capacity(self) -> Capacity:
        """Return what there is in total."""
        ...

    def start(self, attempt: AttemptSpec) -> str:
        """Start an attempt and return a JSON handle that `poll` understands, after a restart of the controller too.

        Idempotent on `attempt.key`: an attempt that was started before is found, not started again.

        Raises:
            ExecutorError: it cannot be started.
        """
        ...

    def poll(self, handle: str, cursor: int) -> Report:
        """Return what is new since a byte offset of the spool."""
        ...

    def stop(self, handle: str, grace_s: float) -> None:
        """Ask a worker to stop and kill it after a grace; returns at once. One that ended is left alone."""
        ...

    def release(self, handle: str) -> None:
        """Forget an attempt and free what is held for it; what is left of its worker ends."""
        ...

    def close(self) -> None:
        """Let go of everything without ending any attempt."""
        ...
