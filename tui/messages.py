"""What the source tells the screens. Each message holds an immutable answer; nobody else touches the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from textual.message import Message

from storage.cluster import ClusterRow, Standing
from storage.rows import (
    AblationRow,
    AttemptRow,
    CheckpointRow,
    EventRow,
    NoteRow,
    ProvenanceRow,
    RequestRow,
    RunRow,
)
from tui.filter_terms import Fields

if TYPE_CHECKING:
    from tui.curve_cache import Curve


class StoreState(StrEnum):
    """How the store answers."""

    LOADING = "loading"
    MISSING = "missing"
    EMPTY = "empty"
    READY = "ready"
    LOCKED = "locked"
    NEWER = "newer"
    OLDER = "older"
    BROKEN = "broken"


UNREADABLE = frozenset({StoreState.MISSING, StoreState.NEWER, StoreState.OLDER, StoreState.BROKEN})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store's runs and ablations at one moment.

    `complete` is False while only the newest runs are read. While the store is locked, the last answer stays.
    `controller` is None where nobody can tell. `standing` is how controller and cluster are. `counts` are the runs by
    status.
    """

    state: StoreState = StoreState.LOADING
    message: str = ""
    runs: tuple[RunRow, ...] = ()
    ablations: tuple[AblationRow, ...] = ()
    complete: bool = False
    controller: bool | None = None
    fields: Fields = field(default_factory=Fields)
    counts: Mapping[str, int] = field(default_factory=dict)
    standing: Standing | None = None

    @property
    def unfinished(self) -> int:
        """How many runs wait or run."""
        return self.counts.get("queued", 0) + self.counts.get("running", 0)

    def run(self, run_id: str) -> RunRow | None:
        """Return a run by its id."""
        return next((run for run in self.runs if run.id == run_id), None)

    def ablation(self, ablation_id: str | None) -> AblationRow | None:
        """Return an ablation by its id."""
        return next((row for row in self.ablations if row.id == ablation_id), None)

    def shares_its_name(self, ablation: AblationRow) -> bool:
        """Tell whether another ablation has the same name, which then means the newest of them."""
        return sum(row.name == ablation.name for row in self.ablations) > 1


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything about one run but its curves and log."""

    run: RunRow
    facts: Mapping[str, object]
    attempts: tuple[AttemptRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    events: tuple[EventRow, ...]
    requests: tuple[RequestRow, ...]
    notes: tuple[NoteRow, ...]
    provenance: ProvenanceRow | None


@dataclass
class StoreChanged(Message):
    """The runs or ablations, or how the store answers, have changed."""

    snapshot: Snapshot

    def can_replace(self, message: Message) -> bool:
        """Only the newest answer counts."""
        return isinstance(message, StoreChanged)


@dataclass
class DetailRead(Message):
    """What is known of the run that was asked for."""

    detail: Detail

    def can_replace(self, message: Message) -> bool:
        """Only the newest answer counts."""
        return isinstance(message, DetailRead)


@dataclass
class ClusterRead(Message):
    """What the controller last said of its cluster, and the process of the living one."""

    row: ClusterRow | None
    pid: int | None

    def can_replace(self, message: Message) -> bool:
        """Only the newest answer counts."""
        return isinstance(message, ClusterRead)


@dataclass
class CurvesRead(Message):
    """Curves by run and metric. `complete` once all that was asked for is here."""

    curves: Mapping[str, Mapping[str, Curve]]
    complete: bool


@dataclass
class SparksRead(Message):
    """A few values of the deciding metric by run, for the lists' small curves."""

    sparks: Mapping[str, tuple[float, ...]]


@dataclass
class ParametersRead(Message):
    """How many parameters the models of some runs have; 0 where a run has not noted it."""

    parameters: Mapping[str, float]


@dataclass
class LogRead(Message):
    """Lines that were added to a log; `first` for those that begin a new showing."""

    run_id: str
    attempt: int
    lines: tuple[str, ...]
    first: bool


@dataclass
class ControlDone(Message):
    """An action was carried out, or failed with an error."""

    what: str
    command: str
    error: str = ""
