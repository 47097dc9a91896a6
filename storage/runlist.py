"""The list of runs, the read that must stay fast with ten thousand of them. Standard library only."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection
from typing import Any

from storage.rows import RunRow

_COLUMNS = (
    "num, id, ablation_id, name, trial_index, trial_label, axis_labels, axis_values, seed, status, step, total_steps,"
    " attempt, max_attempts, priority, reason, error, created_at, started_at, finished_at, heartbeat_at, archived,"
    " metrics, spec"
)


def select_runs(
    connection: sqlite3.Connection,
    *,
    run_id: str | None = None,
    ablation_id: str | None = None,
    statuses: Collection[str] = (),
    include_archived: bool = False,
    limit: int | None = None,
) -> list[RunRow]:
    """Return the runs that fit, newest first; those of one ablation in the order of trial and seed.

    A row costs one row of one table: the metrics are a column, and the names of the ablations and the tags are few
    enough to be looked up here instead of joined there.
    """
    where, parameters = ["1"], []
    if run_id is not None:
        where.append("id = ?")
        parameters.append(run_id)
    if ablation_id is not None:
        where.append("ablation_id = ?")
        parameters.append(ablation_id)
    if statuses:
        where.append(f"status IN ({', '.join('?' * len(statuses))})")
        parameters.extend(str(status) for status in statuses)
    if not include_archived:
        where.append("NOT archived")
    order = "num DESC" if ablation_id is None else "trial_index, seed, num"
    query = f"SELECT {_COLUMNS} FROM run WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"  # noqa: S608 - literals
    rows = connection.execute(query, (*parameters, -1 if limit is None else limit)).fetchall()
    return _decode(rows, dict(connection.execute("SELECT id, name FROM ablation")), _tags(connection, run_id))


def _tags(connection: sqlite3.Connection, run_id: str | None) -> dict[str, tuple[str, ...]]:
    query = "SELECT run_id, name FROM tag WHERE ?1 IS NULL OR run_id = ?1 ORDER BY run_id, name"
    found: dict[str, tuple[str, ...]] = {}
    for owner, name in connection.execute(query, (run_id,)):
        found[owner] = (*found.get(owner, ()), name)
    return found


def _decode(rows: list[tuple[Any, ...]], ablations: dict[str, str], tags: dict[str, tuple[str, ...]]) -> list[RunRow]:
    axes = _Decoded()
    found = []
    for row in rows:
        # fmt: off
        (num, id_, ablation_id, name, index, label, labels, values, seed, status, step, total_steps, attempt,
         max_attempts, priority, reason, error, created_at, started_at, finished_at, heartbeat_at, archived, metrics,
         spec) = row
        found.append(RunRow(
            num, id_, ablation_id, ablations.get(ablation_id), name, index, label, axes[labels], axes[values], seed,
            status, step, total_steps, attempt, max_attempts, priority, reason, error, created_at, started_at,
            finished_at, heartbeat_at, archived == 1, tags.get(id_, ()), decode_metrics(metrics), spec,
        ))
        # fmt: on
    return found


class _Decoded(dict[str, dict[str, Any]]):
    """JSON objects by their text: the runs of a trial share theirs."""

    def __missing__(self, text: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(text)
        self[text] = tree
        return tree


def decode_metrics(text: str) -> dict[str, float]:
    """Return a run's column `metrics` as numbers: null is NaN, and infinities are spelled out."""
    values: dict[str, Any] = json.loads(text)
    if "null" in text or 'inf"' in text:
        return {key: math.nan if value is None else float(value) for key, value in values.items()}
    return values
