"""What the store answers: one immutable object a row, JSON decoded. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as lists show it.

    Attributes:
        ablation: the ablation's name; None for a single run.
        axis_labels, axis_values: by the axes' titles, in axis order.
        step, total_steps: the highest step logged, and the step at which the run ends at the latest.
        attempt: how many attempts it has had.
        started_at: start of the newest attempt; like every time, seconds since 1970.
        metrics: the latest value of each metric; NaN where the metric was not a number.
        spec_json: the spec as stored; `config` is its readable form.
    """

    num: int
    id: str
    ablation_id: str | None
    ablation: str | None
    name: str
    trial_index: int
    trial_label: str
    axis_labels: dict[str, str]
    axis_values: dict[str, Any]
    seed: int
    status: str
    step: int
    total_steps: int | None
    attempt: int
    max_attempts: int
    priority: int
    reason: str | None
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    heartbeat_at: float | None
    archived: bool
    tags: tuple[str, ...]
    metrics: dict[str, float]
    spec_json: str = field(default="{}", repr=False)
    _config: dict[str, Any] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def config(self) -> dict[str, Any]:
        """The spec by dotted keys, such as `model.d_state`. Decoded at the first use: most rows are never asked."""
        if self._config is None:
            object.__setattr__(self, "_config", flatten(json.loads(self.spec_json)))
        return self._config or {}

    @property
    def duration_s(self) -> float | None:
        """Seconds from the newest attempt's start to its end, or to its last sign of life."""
        end = self.finished_at if self.finished_at is not None else self.heartbeat_at
        if self.started_at is None or end is None:
            return None
        return max(0.0, end - self.started_at)

    @property
    def progress(self) -> float:
        """How far the run is, 0 to 1; a run that has ended is at 1, however it ended."""
        if self.status in ENDED:
            return 1.0
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class AblationRow:
    """A study with its runs counted.

    Attributes:
        axes: the axes' titles in order.
        counts: runs by status; statuses without runs are absent. Archived runs are left out unless the study is.
        progress: mean of its runs' progress, 0 to 1; a run that has ended counts as 1, however it ended.
        spec: the ablation as it was submitted.
    """

    num: int
    id: str
    name: str
    question: str
    metric: str
    direction: str
    secondary: tuple[str, ...]
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    created_at: float
    archived: bool
    note: str
    runs_total: int
    counts: dict[str, int]
    progress: float
    spec: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One execution of a run."""

    number: int
    status: str
    executor: str
    handle: str | None
    started_at: float
    finished_at: float | None
    resumed_from: int | None
    exit_code: int | None
    reason: str | None
    error: str | None
    traceback: str | None


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A resumable state; `path` is relative to the run's folder. The worker may have removed it since."""

    step: int
    attempt: int
    path: str
    bytes: int | None
    at: float


@dataclass(frozen=True, slots=True)
class EventRow:
    """One change of state."""

    id: int
    at: float
    kind: str
    run_id: str | None
    ablation_id: str | None
    attempt: int | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RequestRow:
    """What a user asked of the controller, and what came of it."""

    id: int
    kind: str
    payload: dict[str, Any]
    status: str
    outcome: str | None
    created_at: float
    settled_at: float | None


@dataclass(frozen=True, slots=True)
class NoteRow:
    """A person's remark on a run."""

    id: int
    body: str
    created_at: float


@dataclass(frozen=True, slots=True)
class ProvenanceRow:
    """What a run's submission came from."""

    created_at: float
    git_sha: str | None
    git_dirty: bool | None
    git_diff: str | None
    command: str
    directory: str
    hostname: str
    python: str
    versions: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LatestValue:
    """A metric's value at its highest step."""

    step: int
    value: float
    at: float


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
