"""What training is given and what it returns: a place, a sink for metrics, a question whether to stop, and a result.

Training knows neither Ray nor SQLite: whoever runs it supplies a `RunContext` whose sink carries the metrics away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from workers.training.ranks import Ranks

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
Status = Literal["completed", "stopped"]
Reason = Literal["steps", "stop_at", "stopped"]


class MetricSink(Protocol):
    """Where a run's metrics and facts go. Every method is called from the training thread."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take named scalars (`split/name`) at a step without blocking. The same step may come again after a resume."""
        ...

    def note(self, kind: str, payload: Mapping[str, JSON]) -> None:
        """Take a fact for the record, such as `model`, `hardware`, `data`, `implementation` or `checkpoint`."""
        ...

    def flush(self) -> None:
        """Return once everything taken so far is where a crash of this process cannot lose it."""
        ...


def never_stop() -> bool:
    """Return False: a run that nobody can stop."""
    return False


@dataclass(frozen=True, slots=True)
class RunContext:
    """One attempt at a run.

    Attributes:
        run_id, attempt: the names under which the attempt is recorded; the first attempt is 1.
        directory: the run's own folder, shared by its attempts; checkpoints are kept in `checkpoints/` below it.
        sink: receives metrics and facts.
        should_stop: asked before every step; once it is true, a checkpoint is written and the run returns `stopped`.
        accept_other_spec: resume even from a checkpoint of a spec that computes something else.
        ranks: this process among those that train the run together; None where it is alone.
        began: when this process began (seconds since 1970), where it serves nothing but this attempt, or its ensemble.
    """

    run_id: str
    attempt: int
    directory: Path
    sink: MetricSink
    should_stop: Callable[[], bool] = never_stop
    accept_other_spec: bool = False
    ranks: Ranks | None = None
    began: float | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: `completed`, or `stopped` where `should_stop` said so and a later attempt may go on.
        reason: why it ended: all `steps` done, the metric reached `stop_at`, or it was `stopped`.
        step: the last optimizer update.
        metrics: the last logged value of every metric; empty names are never present.
        resumed_from: the checkpoint's step that this attempt started from; 0 for a fresh start.
        train_seconds: time in training steps over all attempts, without evaluation and checkpoints.
        checkpoint: path of the newest checkpoint, relative to the run's folder.
    """

    status: Status
    reason: Reason
    step: int
    metrics: Mapping[str, float]
    resumed_from: int
    train_seconds: float
    checkpoint: str | None


@dataclass(slots=True)
class MemorySink:
    """A sink that keeps everything in lists, for tests and for runs inside one process."""

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    notes: list[tuple[str, dict[str, JSON]]] = field(default_factory=list)
    flushes: int = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep a row."""
        self.rows.append((step, dict(metrics)))

    def note(self, kind: str, payload: Mapping[str, JSON]) -> None:
        """Keep a fact."""
        self.notes.append((kind, dict(payload)))

    def flush(self) -> None:
        """Count the call; there is nothing to write."""
        self.flushes += 1

    def series(self, key: str) -> dict[int, float]:
        """Return one metric as {step: value}; a step that was logged again holds the later value."""
        return {step: row[key] for step, row in self.rows if key in row}

    def facts(self, kind: str) -> list[dict[str, JSON]]:
        """Return the payloads noted under a kind, oldest first."""
        return [payload for noted, payload in self.notes if noted == kind]
