"""What is handed to the repository and what it hands to the controller. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.status import AttemptStatus


@dataclass(frozen=True, slots=True)
class NewAblation:
    """A study to store. `axes` are the axes' titles in order, `spec` its whole file as JSON."""

    name: str
    question: str
    spec: Mapping[str, Any]
    metric: str
    direction: str
    secondary: Sequence[str] = ()
    axes: Sequence[str] = ()
    seeds: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to queue. `gpus` None: the controller decides; `axis_labels` are keyed by the axes' titles.

    `id` is given where the run's folder is there already; `origin` says what the run was made from, in its first event.
    """

    name: str
    spec: Mapping[str, Any]
    spec_hash: str
    trial_index: int = 0
    trial_label: str = ""
    axis_values: Mapping[str, Any] = field(default_factory=dict)
    axis_labels: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    cpus: float = 1.0
    gpus: float | None = None
    max_attempts: int = 1
    total_steps: int | None = None
    priority: int = 0
    id: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewProvenance:
    """What a submission came from."""

    command: str
    directory: str
    hostname: str
    python: str
    versions: Mapping[str, Any] = field(default_factory=dict)
    git_sha: str | None = None
    git_dirty: bool | None = None
    git_diff: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The ids that a submission got; `run_ids` in the order of the runs."""

    ablation_id: str | None
    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A run that waits. `attempt` counts the attempts it has had."""

    id: str
    num: int
    attempt: int
    cpus: float
    gpus: float | None
    priority: int
    max_attempts: int
    spec_json: str
    reason: str | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The run's spec, parsed anew on each use: a queue of thousands is polled without parsing any."""
        tree: dict[str, Any] = json.loads(self.spec_json)
        return tree


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt at work. `cursor` is the spool's offset up to which everything is stored."""

    run_id: str
    number: int
    executor: str
    handle: str | None
    started_at: float
    cursor: int
    heartbeat_at: float | None
    cpus: float
    gpus: float | None
    max_attempts: int
    spec_json: str

    @property
    def spec(self) -> dict[str, Any]:
        """The run's spec, parsed anew on each use."""
        tree: dict[str, Any] = json.loads(self.spec_json)
        return tree


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """A piece of one attempt's spool.

    Attributes:
        rows: (time, step, values by metric name), in the order they were logged. NaN is stored as NULL.
        notes: (time, kind, payload). `checkpoint`, `resume` and `warning` go to their own places; any other kind is
            a fact of the run, the newest of a kind replacing the one before.
        cursor: the spool's offset after the piece.
        heartbeat_at: when the worker last gave a sign of life; None leaves it.
    """

    rows: Sequence[tuple[float, int, Mapping[str, float]]]
    cursor: int
    notes: Sequence[tuple[float, str, Mapping[str, Any]]] = ()
    heartbeat_at: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended. With `retry_at` its run is queued again and waits until then."""

    status: AttemptStatus
    now: float
    reason: str | None = None
    error: str | None = None
    traceback: str | None = None
    exit_code: int | None = None
    step: int | None = None
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """What a user asked and nobody has settled; `run_status` is the run's status now."""

    id: int
    kind: str
    run_id: str
    payload: dict[str, Any]
    run_status: str
