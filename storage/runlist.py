"""The list of runs, the read that must stay fast with ten thousand of them. Standard library only."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any

from storage.packing import unpacker
from storage.rows import RunRow

_COLUMNS = (
    "num, id, ablation_id, name, trial_index, trial_label, axis_labels, axis_values, seed, status, step, total_steps,"
    " attempt, max_attempts, priority, reason, error, created_at, started_at, finished_at, heartbeat_at, archived,"
    " metrics, spec"
)
_NAMES = _COLUMNS.split(", ")
_CHUNK = 256  # rows decoded at once: the CPU's cache holds them


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
            # the first time everything is past it: the plus keeps SQLite from hopping through the index of `changed`
            past = "changed > ?" if self._seen else "+changed > ?"
            for run in _select(connection, past, (self._seen,), "num", None):
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
    cursor = connection.execute(query, (*parameters, -1 if limit is None else limit))
    decoder: _Decoder | None = None
    found: list[RunRow] = []
    while rows := cursor.fetchmany(_CHUNK):
        decoder = decoder or _Decoder(connection)
        found.extend(decoder.decode(rows))
    return found


class _Decoder:
    """Makes runs of stored rows, column by column."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._studies = dict(connection.execute("SELECT id, name FROM ablation"))
        self._tags: dict[str, tuple[str, ...]] = {}
        for owner, name in connection.execute("SELECT run_id, name FROM tag ORDER BY run_id, name"):
            self._tags[owner] = (*self._tags.get(owner, ()), name)
        self._axes = _Parsed()
        self._unpack = unpacker(dict(connection.execute("SELECT id, name FROM metric_key")))

    def decode(self, rows: Sequence[tuple[Any, ...]]) -> list[RunRow]:
        """Return a run for each row of _COLUMNS."""
        columns: dict[str, Iterable[Any]] = dict(zip(_NAMES, zip(*rows, strict=True), strict=True))
        columns["ablation"] = map(self._studies.get, columns["ablation_id"])
        columns["tags"] = [self._tags.get(id_, ()) for id_ in columns["id"]]
        columns["axis_labels"] = map(self._axes.__getitem__, columns["axis_labels"])
        columns["axis_values"] = map(self._axes.__getitem__, columns["axis_values"])
        columns["archived"] = map(bool, columns["archived"])
        columns["metrics"] = map(self._unpack, columns["metrics"])
        columns["spec_json"] = columns.pop("spec")
        columns["_config"] = repeat(None)
        return _build(columns, len(rows))


def _build(columns: dict[str, Iterable[Any]], count: int) -> list[RunRow]:
    """Make the runs from their fields.

    The constructor of a frozen dataclass sets each field through a call in Python: 33 ms for 10,000 runs. The slots set
    themselves in C, a whole column at a time, in 12.
    """
    runs = [object.__new__(RunRow) for _ in range(count)]
    for name, values in columns.items():
        deque(map(getattr(RunRow, name).__set__, runs, values), maxlen=0)
    return runs


class _Parsed(dict[str, dict[str, Any]]):
    """JSON objects by their text: the runs of a trial share theirs."""

    def __missing__(self, text: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(text)
        self[text] = tree
        return tree
