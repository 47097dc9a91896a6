"""Stores a submission: provenance, ablation and runs, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import insert
from sqlalchemy.engine import Connection
from sqlmodel import col

from storage.engine import driver_connection
from storage.events import add_event
from storage.ids import new_id
from storage.records import NewAblation, NewProvenance, NewRun, Submitted
from storage.status import RunStatus
from storage.tables import Ablation, Provenance, Run


def submit(
    transaction: Connection,
    ablation: NewAblation | None,
    runs: Sequence[NewRun],
    provenance: NewProvenance,
    now: float,
    make_id: Callable[[], str] = new_id,
) -> Submitted:
    """Insert everything inside the caller's transaction."""
    stored = {**asdict(provenance), "versions": dict(provenance.versions), "created_at": now}
    origin = transaction.execute(insert(Provenance).returning(col(Provenance.id)), [stored]).scalar_one()
    ablation_id = None if ablation is None else _insert_ablation(transaction, ablation, make_id(), origin, now)
    ids = tuple(make_id() for _ in runs)
    if runs:
        rows = [_run_row(run, id_, ablation_id, origin, now) for run, id_ in zip(runs, ids, strict=True)]
        transaction.execute(insert(Run), rows)
    driver = driver_connection(transaction.connection)
    if ablation_id is not None:
        add_event(driver, now, "submitted", None, data={"runs": len(ids)}, ablation_id=ablation_id)
    else:
        for run_id in ids:
            add_event(driver, now, "submitted", run_id)
    return Submitted(ablation_id, ids)


def _insert_ablation(
    transaction: Connection, ablation: NewAblation, ablation_id: str, provenance_id: int | None, now: float
) -> str:
    transaction.execute(
        insert(Ablation).values(
            id=ablation_id,
            name=ablation.name,
            question=ablation.question,
            spec=dict(ablation.spec),
            metric=ablation.metric,
            direction=ablation.direction,
            secondary=list(ablation.secondary),
            axes=list(ablation.axes),
            seeds=list(ablation.seeds),
            provenance_id=provenance_id,
            created_at=now,
            archived=False,
            note="",
        )
    )
    return ablation_id


def _run_row(
    run: NewRun, run_id: str, ablation_id: str | None, provenance_id: int | None, now: float
) -> dict[str, object]:
    return {
        "id": run_id,
        "ablation_id": ablation_id,
        "name": run.name,
        "trial_index": run.trial_index,
        "trial_label": run.trial_label,
        "axis_values": dict(run.axis_values),
        "axis_labels": dict(run.axis_labels),
        "seed": run.seed,
        "spec": dict(run.spec),
        "spec_hash": run.spec_hash,
        "status": RunStatus.QUEUED.value,
        "priority": run.priority,
        "cpus": run.cpus,
        "gpus": run.gpus,
        "max_attempts": run.max_attempts,
        "attempt": 0,
        "created_at": now,
        "step": 0,
        "total_steps": run.total_steps,
        "facts": {},
        "metrics": b"",
        "provenance_id": provenance_id,
        "archived": False,
        "changed": 0,
    }
