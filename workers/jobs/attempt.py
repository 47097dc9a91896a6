"""One execution of a run, as the controller hands it to an executor and as the worker reports its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

from workers.jobs.errors import ExecutorError
from workers.parallel import processes

TRIAL = "workers.training.trial:run_trial"  # what an attempt runs unless the controller is told otherwise
ENSEMBLE = "workers.training.ensemble:run_ensemble"  # and what several run that are one ensemble


class WorkerExit(IntEnum):
    """How a worker process ends. Anything else, a signal above all, means that it broke down."""

    COMPLETED = 0
    FAILED = 1  # result.json tells why
    STOPPED = 3  # asked to stop; the state is in a checkpoint
    ORPHANED = 4  # its supervisor vanished
    DUPLICATE = 5  # another process is at work on the same attempt


EXIT_CODES = {"completed": WorkerExit.COMPLETED, "stopped": WorkerExit.STOPPED, "failed": WorkerExit.FAILED}
"""By the status of an outcome."""


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """Everything an executor needs to start an attempt, on this machine or another one.

    Attributes:
        run_id, number: the names under which it is recorded; the first attempt is 1.
        run_directory: the run's own folder, shared by its attempts; absolute.
        directory: this attempt's folder (spec.json, spool.jsonl, log.txt, result.json); absolute.
        spec: the run's `RunSpec` as JSON.
        cpus, gpus: its share of the cluster; a fraction of a GPU shares one.
        node: where the ledger placed it, by the executor's own name for a node; empty: anywhere.
        devices: indices of the GPUs it may see, for executors that choose devices themselves.
        trial: the function to run, `module:name`.
        pack: folders of all attempts of its ensemble, that of the one whose worker serves all first; empty where it is alone.
        leader: key of that first attempt; empty likewise.
        members: the other attempts of the ensemble, as JSON; the first one alone has them.
        ensemble: the function that runs an ensemble, `module:name`.
        cluster: HOST:PORT of the Ray head whose Ray Train starts the processes of a run that several train; empty: torchrun.
        leash: end the worker when whoever supervises it vanishes. Without it the worker goes on alone, and a later
            supervisor finds it by its process id.
    """

    run_id: str
    number: int
    run_directory: str
    directory: str
    spec: Mapping[str, Any]
    cpus: float = 1.0
    gpus: float = 0.0
    node: str = ""
    devices: tuple[int, ...] = ()
    trial: str = TRIAL
    leash: bool = False
    pack: tuple[str, ...] = ()
    leader: str = ""
    members: tuple[Mapping[str, Any], ...] = ()
    ensemble: str = ENSEMBLE
    cluster: str = ""

    @property
    def key(self) -> str:
        """The attempt's name in the whole cluster."""
        return f"run-{self.run_id}-{self.number}"

    @property
    def follows(self) -> bool:
        """Whether another attempt's worker serves this one."""
        return self.leader not in ("", self.key)

    @property
    def path(self) -> Path:
        """The attempt's folder."""
        return Path(self.directory)

    @property
    def threads(self) -> int:
        """CPU threads of the worker, or of each of a run's processes: what the spec says, else its share of CPUs, one at least."""
        asked = self.spec.get("train", {}).get("threads", 0)
        return int(asked) or max(1, int(self.cpus / processes(self.spec)))

    def to_json(self) -> dict[str, Any]:
        """Return the attempt as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `to_json` made. Raises ExecutorError for a field that is missing or unknown."""
        try:
            lists = {name: tuple(tree.get(name, ())) for name in ("devices", "pack", "members")}
            return cls(**{**tree, **lists})
        except TypeError as error:
            raise ExecutorError(f"spec.json is not an attempt: {error}") from error


def as_ensemble(attempts: Sequence[AttemptSpec]) -> list[AttemptSpec]:
    """Return attempts that one worker is to serve, in their order: the first one leads. One alone stays as it is."""
    if len(attempts) < 2:
        return list(attempts)
    pack = tuple(attempt.directory for attempt in attempts)
    first, *others = (replace(attempt, pack=pack, leader=attempts[0].key) for attempt in attempts)
    return [replace(first, members=tuple(other.to_json() for other in others)), *others]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A worker's last word, `result.json`.

    Attributes:
        status: completed, stopped or failed.
        reason: `steps` or `stop_at` for a completed run, `stopped`, or an error code (workers.training.errors).
        step: the last optimizer update; 0 where the worker cannot say.
        metrics: last value of each metric, non-finite ones as their names.
        resumed_from: step of the checkpoint it went on from; 0 for a fresh start.
        error, traceback: one line for a table, and the whole story.
    """

    status: str
    reason: str
    step: int = 0
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    resumed_from: int = 0
    train_seconds: float = 0.0
    checkpoint: str | None = None
    error: str | None = None
    traceback: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `to_json` made; unknown fields of a newer worker are ignored."""
        known = {name: tree[name] for name in cls.__dataclass_fields__ if name in tree}
        return cls(**known)
