"""Stores a submission: provenance, ablation and runs, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import insert
from sqlalchemy.engine import Connection
from sqlmodel import col

from storage.encoding import dumps
from storage.engine import driver_connection
from storage.errors import Conflict, NotFound
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
    origin = _insert_provenance(transaction, provenance, now)
    ablation_id = None if ablation is None else _insert_ablation(transaction, ablation, make_id(), origin, now)
    ids = _insert_runs(transaction, runs, ablation_id, origin, now, make_id)
    driver = driver_connection(transaction.connection)
    if ablation_id is not None:
        add_event(driver, now, "submitted", None, data={"runs": len(ids)}, ablation_id=ablation_id)
    else:
        for run, run_id in zip(runs, ids, strict=True):
            add_event(driver, now, "submitted", run_id, data=run.origin)
    return Submitted(ablation_id, ids)


def extend(
    transaction: Connection, ablation_id: str, runs: Sequence[NewRun], provenance: NewProvenance, now: float
) -> Submitted:
    """Add runs with further seeds to an ablation, and the seeds to what it says of itself, in the caller's transaction.

    Raises:
        NotFound: no such ablation.
        Conflict: it has a run of such a trial and seed already.
    """
    driver = driver_connection(transaction.connection)
    found = driver.execute("SELECT seeds, spec FROM ablation WHERE id = ?", (ablation_id,)).fetchone()
    if found is None:
        raise NotFound.no_ablation(ablation_id)
    for run in runs:
        query = "SELECT id FROM run WHERE ablation_id = ? AND trial_index = ? AND seed = ?"
        there = driver.execute(query, (ablation_id, run.trial_index, run.seed)).fetchone()
        if there is not None:
            raise Conflict(
                f"{run.trial_label} with seed {run.seed} is run {there[0]} already. Name seeds that the ablation has not."
            )
    seeds = list(dict.fromkeys([*json.loads(found[0]), *(run.seed for run in runs)]))
    spec = json.loads(found[1]) | {"seeds": seeds}
    driver.execute("UPDATE ablation SET seeds = ?, spec = ? WHERE id = ?", (dumps(seeds), dumps(spec), ablation_id))
    origin = _insert_provenance(transaction, provenance, now)
    ids = _insert_runs(transaction, runs, ablation_id, origin, now, new_id)
    added = {"runs": len(ids), "seeds": list(dict.fromkeys(run.seed for run in runs))}
    add_event(driver, now, "extended", None, data=added, ablation_id=ablation_id)
    return Submitted(ablation_id, ids)


def _insert_provenance(transaction: Connection, provenance: NewProvenance, now: float) -> int | None:
    stored = {**asdict(provenance), "versions": dict(provenance.versions), "created_at": now}
    return transaction.execute(insert(Provenance).returning(col(Provenance.id)), [stored]).scalar_one()


def _insert_runs(
    transaction: Connection,
    runs: Sequence[NewRun],
    ablation_id: str | None,
    provenance_id: int | None,
    now: float,
    make_id: Callable[[], str],
) -> tuple[str, ...]:
    ids = tuple(run.id or make_id() for run in runs)
    if runs:
        rows = [_run_row(run, id_, ablation_id, provenance_id, now) for run, id_ in zip(runs, ids, strict=True)]
        transaction.execute(insert(Run), rows)
    return ids


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
