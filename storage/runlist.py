"""The list of runs, the read that must stay fast with ten thousand of them. Standard library only."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from storage.packing import unpacker
from storage.rows import RunRow

_COLUMNS = (
    "num, id, ablation_id, name, trial_index, trial_label, axis_labels, axis_values, seed, status, step, total_steps,"
    " attempt, max_attempts, priority, reason, error, created_at, started_at, finished_at, heartbeat_at, archived,"
    " metrics, spec"
)


class RunList:
    """Every run of a store, kept in memory and brought up to date by what has changed since."""

    def __init__(self) -> None:
        self._runs: dict[int, RunRow] = {}
        self._seen = 0

    def refresh(self, connection: sqlite3.Connection) -> list[RunRow]:
        """Return all runs, newest first, archived ones included. A run that has not changed is the same object again.

        Runs are never removed from a store, so that what is not newer is as it was.
        """
        newest = connection.execute("SELECT MAX(changed) FROM run").fetchone()[0] or 0
        if newest > self._seen:
            before = len(self._runs)
            for run in _select(connection, "changed > ?", (self._seen,), "num", None):
                self._runs[run.num] = run
            self._seen = newest
            if len(self._runs) > before > 0:
                self._runs = dict(sorted(self._runs.items()))
        return list(reversed(self._runs.values()))


def select_runs(
    connection: sqlite3.Connection,
    *,
    run_id: str | None = None,
    ablation_id: str | None = None,
    statuses: Collection[str] = (),
    include_archived: bool = False,
    limit: int | None = None,
) -> list[RunRow]:
    """Return the runs that fit, newest first; those of one ablation in the order of trial and seed."""
    where: list[str] = ["1"]
    parameters: list[Any] = []
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
    return _select(connection, " AND ".join(where), parameters, order, limit)


def _select(
    connection: sqlite3.Connection, where: str, parameters: Sequence[Any], order: str, limit: int | None
) -> list[RunRow]:
    """Return runs from one row of one table each: names of ablations and tags are few enough to be looked up here."""
    query = f"SELECT {_COLUMNS} FROM run WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608 - literals
    rows = connection.execute(query, (*parameters, -1 if limit is None else limit)).fetchall()
    if not rows:
        return []
    columns = dict(zip(_COLUMNS.split(", "), zip(*rows, strict=True), strict=True))
    studies = dict(connection.execute("SELECT id, name FROM ablation"))
    tags = _tags(connection, columns["id"])
    axes = _Decoded()
    columns["ablation"] = tuple(map(studies.get, columns["ablation_id"]))
    columns["tags"] = tuple(tags.get(id_, ()) for id_ in columns["id"])
    columns["axis_labels"] = tuple(map(axes.__getitem__, columns["axis_labels"]))
    columns["axis_values"] = tuple(map(axes.__getitem__, columns["axis_values"]))
    columns["archived"] = tuple(map(bool, columns["archived"]))
    unpack = unpacker(dict(connection.execute("SELECT id, name FROM metric_key")))
    columns["metrics"] = tuple(map(unpack, columns["metrics"]))
    columns["spec_json"] = columns.pop("spec")
    columns["_config"] = (None,) * len(rows)
    return _build(columns, len(rows))


def _build(columns: dict[str, tuple[Any, ...]], count: int) -> list[RunRow]:
    """Make the rows column by column.

    The constructor of a frozen dataclass sets each field through a call in Python: 33 ms for 10,000 runs. The slots set
    themselves in C, a whole column at a time, in 12.
    """
    runs = [object.__new__(RunRow) for _ in range(count)]
    for name, values in columns.items():
        _exhaust(map(getattr(RunRow, name).__set__, runs, values))
    return runs


def _exhaust(iterator: Iterable[None]) -> None:
    deque(iterator, maxlen=0)


def _tags(connection: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    query = "SELECT run_id, name FROM tag WHERE ?1 IS NULL OR run_id = ?1 ORDER BY run_id, name"
    found: dict[str, tuple[str, ...]] = {}
    for owner, name in connection.execute(query, (run_ids[0] if len(run_ids) == 1 else None,)):
        found[owner] = (*found.get(owner, ()), name)
    return found


class _Decoded(dict[str, dict[str, Any]]):
    """JSON objects by their text: the runs of a trial share theirs."""

    def __missing__(self, text: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(text)
        self[text] = tree
        return tree
