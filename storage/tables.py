"""The tables that people read, as SQLModel classes. Names are in the singular; times are seconds since 1970 (UTC).

The narrow tables `metric_key`, `metric`, `latest` and `spool_cursor` and the views are in the first migration: nothing
is ever loaded from them as objects, so they have no classes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, ForeignKey, Index, Integer, String, UniqueConstraint, text
from sqlmodel import Field, SQLModel


class Provenance(SQLModel, table=True):
    """What a submission came from; captured once and shared by its runs."""

    id: int | None = Field(default=None, primary_key=True)
    created_at: float
    git_sha: str | None = None
    git_dirty: bool | None = None
    git_diff: str | None = None
    command: str
    directory: str
    hostname: str
    python: str
    versions: dict[str, Any] = Field(sa_type=JSON)


class Ablation(SQLModel, table=True):
    """A study: what was asked, what varies, and the metric that decides."""

    num: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    name: str = Field(index=True)
    question: str = ""
    spec: dict[str, Any] = Field(sa_type=JSON)
    metric: str
    direction: str
    secondary: list[str] = Field(sa_type=JSON)
    axes: list[str] = Field(sa_type=JSON)
    seeds: list[int] = Field(sa_type=JSON)
    provenance_id: int | None = Field(default=None, foreign_key="provenance.id")
    created_at: float
    archived: bool = False
    note: str = ""


class Run(SQLModel, table=True):
    """One trial with one seed, or a single run where `ablation_id` is empty.

    `started_at` is the start of the newest attempt. `metrics` repeats table `latest` in packed form (storage.packing),
    written in the same transaction, so that a list of ten thousand runs reads one row a run. `changed` is a number that
    triggers raise above all others at every change of the run or its tags, so that a list can be brought up to date.
    """

    # AUTOINCREMENT: the number of a removed run is never given to another, as metrics are keyed by it
    __table_args__ = (
        Index("run_queue", "status", text("priority DESC"), "num", "archived"),
        Index("run_of_ablation", "ablation_id", "trial_index", "seed"),
        {"sqlite_autoincrement": True},
    )

    num: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True))
    id: str = Field(unique=True)
    ablation_id: str | None = Field(default=None, foreign_key="ablation.id")
    name: str
    trial_index: int = 0
    trial_label: str = ""
    axis_values: dict[str, Any] = Field(sa_type=JSON)
    axis_labels: dict[str, str] = Field(sa_type=JSON)
    seed: int = 0
    spec: dict[str, Any] = Field(sa_type=JSON)
    spec_hash: str = Field(index=True)
    status: str
    priority: int = 0
    cpus: float = 1.0
    gpus: float | None = None
    max_attempts: int = 1
    attempt: int = 0
    not_before: float | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    step: int = 0
    total_steps: int | None = None
    heartbeat_at: float | None = None
    error: str | None = None
    reason: str | None = None
    facts: dict[str, Any] = Field(sa_type=JSON)
    metrics: bytes = b""
    provenance_id: int | None = Field(default=None, foreign_key="provenance.id")
    archived: bool = False
    changed: int = Field(default=0, index=True)


def _run_key(**options: Any) -> Any:
    return Column(String, ForeignKey("run.id", ondelete="CASCADE"), **options)


class Attempt(SQLModel, table=True):
    """One execution of a run. `handle` is the executor's own JSON, by which a later controller finds it again."""

    __table_args__ = (UniqueConstraint("run_id", "number"),)

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(sa_column=_run_key(nullable=False))
    number: int
    status: str
    executor: str
    handle: str | None = None
    started_at: float
    finished_at: float | None = None
    resumed_from: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    error: str | None = None
    traceback: str | None = None


class Checkpoint(SQLModel, table=True):
    """A resumable state on disk; `path` is relative to the run's folder."""

    __table_args__ = (UniqueConstraint("run_id", "step"),)

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(sa_column=_run_key(nullable=False))
    attempt: int
    step: int
    path: str
    bytes: int | None = None
    at: float


class Event(SQLModel, table=True):
    """One change of state; rows are only ever added."""

    __table_args__ = ({"sqlite_autoincrement": True},)

    id: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True))
    at: float
    kind: str
    run_id: str | None = Field(default=None, sa_column=_run_key(nullable=True, index=True))
    ablation_id: str | None = None
    attempt: int | None = None
    data: dict[str, Any] = Field(sa_type=JSON)


class Request(SQLModel, table=True):
    """What a user asks of the controller: cancel, retry, priority."""

    id: int | None = Field(default=None, primary_key=True)
    kind: str
    run_id: str = Field(sa_column=_run_key(nullable=False, index=True))
    payload: dict[str, Any] = Field(sa_type=JSON)
    status: str = Field(index=True)
    outcome: str | None = None
    created_at: float
    settled_at: float | None = None


class Note(SQLModel, table=True):
    """A person's remark on a run."""

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(sa_column=_run_key(nullable=False, index=True))
    body: str
    created_at: float


class Tag(SQLModel, table=True):
    """A word that a person put on a run."""

    run_id: str = Field(sa_column=_run_key(primary_key=True))
    name: str = Field(primary_key=True, index=True)
    created_at: float
