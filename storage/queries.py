"""Everything that is read from the store, over one read-only sqlite3 connection. Standard library only."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from storage import lookup
from storage.cluster import ClusterRow, read_cluster
from storage.connect import check_schema, open_store, translated
from storage.errors import NotFound
from storage.home import HomePaths
from storage.rows import (
    ENDED,
    AblationRow,
    AttemptRow,
    CheckpointRow,
    EventRow,
    LatestValue,
    NoteRow,
    ProvenanceRow,
    RequestRow,
    RunRow,
)
from storage.runlist import RunList, select_runs
from storage.series import Series, read_sample, read_series
from storage.status import by_status
from storage.studylist import select_ablations

__all__ = [
    "ENDED",
    "AblationRow",
    "AttemptRow",
    "CheckpointRow",
    "EventRow",
    "LatestValue",
    "NoteRow",
    "ProvenanceRow",
    "Reader",
    "RequestRow",
    "RunRow",
    "Series",
]


class Reader:
    """Reads a store while others write it. Not thread-safe: one for each thread.

    Every method answers from one snapshot of the store and leaves no transaction open behind it, so that a reader that
    lives for hours never keeps the write-ahead log from being folded back.
    """

    def __init__(self, paths: HomePaths, *, timeout_s: float = 5.0) -> None:
        """Open the store. Raises what `storage.connect.open_store` does."""
        self._database = paths.database
        self._connection = open_store(paths.database, timeout_s=timeout_s)
        self._list = RunList()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Closing twice does nothing more."""
        self._connection.close()

    def data_version(self) -> int:
        """Return a number that changes whenever another connection has committed anything."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def check_schema(self) -> None:
        """Raise SchemaTooNew where a newer version has migrated the store meanwhile."""
        with translated(self._database):
            check_schema(self._connection, self._database)

    def runs(
        self,
        *,
        ablation_id: str | None = None,
        statuses: Collection[str] = (),
        include_archived: bool = False,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Return runs, newest first; those of one ablation in the order of trial and seed.

        The whole list is kept by this reader and costs only what has changed since it was last asked for.
        """
        with self._snapshot() as connection:
            if ablation_id is None and not statuses and limit is None:
                every = self._list.refresh(connection)
                return every if include_archived else [run for run in every if not run.archived]
            return select_runs(
                connection,
                ablation_id=ablation_id,
                statuses=statuses,
                include_archived=include_archived,
                limit=limit,
            )

    def run(self, run_id: str) -> RunRow:
        """Return one run by its whole id. Raises NotFound."""
        with self._snapshot() as connection:
            found = select_runs(connection, run_id=run_id, include_archived=True)
        if not found:
            raise _no_run(run_id)
        return found[0]

    def run_spec(self, run_id: str) -> dict[str, Any]:
        """Return what the run computes, as it was submitted. Raises NotFound."""
        return self._json_of_run("spec", run_id)

    def run_facts(self, run_id: str) -> dict[str, Any]:
        """Return what the run noted, by kind: hardware, implementation, model, data. Raises NotFound."""
        return self._json_of_run("facts", run_id)

    def resolve_run(self, ref: str) -> str:
        """Return the id of the run that `ref`, a unique prefix, names. Raises NotFound, AmbiguousPrefix."""
        with self._snapshot() as connection:
            return lookup.resolve_run(connection, ref)

    def resolve_ablation(self, ref: str) -> str:
        """Return the id of the ablation of that name (the newest) or unique prefix. Raises NotFound, AmbiguousPrefix."""
        with self._snapshot() as connection:
            return lookup.resolve_ablation(connection, ref)

    def resolve(self, ref: str) -> tuple[lookup.Kind, str]:
        """Return ("ablation" or "run", id) of what `ref` names. Raises NotFound, AmbiguousPrefix."""
        with self._snapshot() as connection:
            return lookup.resolve(connection, ref)

    def ablations(self, *, include_archived: bool = False) -> list[AblationRow]:
        """Return the ablations, newest first."""
        with self._snapshot() as connection:
            return select_ablations(connection, include_archived=include_archived)

    def ablation(self, ablation_id: str) -> AblationRow:
        """Return one ablation by its whole id. Raises NotFound."""
        with self._snapshot() as connection:
            found = select_ablations(connection, ablation_id=ablation_id)
        if not found:
            raise NotFound.no_ablation(ablation_id)
        return found[0]

    def attempts(self, run_id: str) -> list[AttemptRow]:
        """Return the run's attempts, first to last."""
        return [
            AttemptRow(*row)
            for row in self._rows(
                "SELECT number, status, executor, handle, started_at, finished_at, resumed_from, exit_code, reason,"
                " error, traceback FROM attempt WHERE run_id = ? ORDER BY number",
                (run_id,),
            )
        ]

    def checkpoints(self, run_id: str) -> list[CheckpointRow]:
        """Return the checkpoints that were written, in the order of their steps."""
        query = "SELECT step, attempt, path, bytes, at FROM checkpoint WHERE run_id = ? ORDER BY step"
        return [CheckpointRow(*row) for row in self._rows(query, (run_id,))]

    def events(self, run_id: str | None = None, *, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """Return changes of state past event number `after`, oldest first; of one run, or of all."""
        where = "id > ?" if run_id is None else "id > ? AND run_id = ?"
        rows = self._rows(
            f"SELECT id, at, kind, run_id, ablation_id, attempt, data FROM event WHERE {where} ORDER BY id LIMIT ?",  # noqa: S608 - literals
            (after, limit) if run_id is None else (after, run_id, limit),
        )
        return [
            EventRow(id_, at, kind, owner, study, attempt, json.loads(data))
            for id_, at, kind, owner, study, attempt, data in rows
        ]

    def requests(self, run_id: str) -> list[RequestRow]:
        """Return what was asked about the run, oldest first."""
        query = "SELECT id, kind, payload, status, outcome, created_at, settled_at FROM request WHERE run_id = ? ORDER BY id"
        return [RequestRow(row[0], row[1], json.loads(row[2]), *row[3:]) for row in self._rows(query, (run_id,))]

    def notes(self, run_id: str) -> list[NoteRow]:
        """Return people's remarks on the run, oldest first."""
        query = "SELECT id, body, created_at FROM note WHERE run_id = ? ORDER BY id"
        return [NoteRow(*row) for row in self._rows(query, (run_id,))]

    def tags(self, run_id: str) -> list[str]:
        """Return the run's tags in alphabetical order."""
        return [row[0] for row in self._rows("SELECT name FROM tag WHERE run_id = ? ORDER BY name", (run_id,))]

    def provenance(self, run_id: str) -> ProvenanceRow | None:
        """Return what the run's submission came from."""
        rows = self._rows(
            "SELECT provenance.created_at, git_sha, git_dirty, git_diff, command, directory, hostname, python, versions"
            " FROM provenance JOIN run ON run.provenance_id = provenance.id WHERE run.id = ?",
            (run_id,),
        )
        if not rows:
            return None
        created_at, sha, dirty, diff, command, directory, hostname, python, versions = rows[0]
        is_dirty = None if dirty is None else bool(dirty)
        return ProvenanceRow(
            created_at, sha, is_dirty, diff, command, directory, hostname, python, json.loads(versions)
        )

    def metric_keys(self, run_id: str) -> list[str]:
        """Return the names of the run's metrics in alphabetical order."""
        return sorted(self.latest(run_id))

    def series(self, run_id: str, key: str, *, after_step: int = -1) -> Series:
        """Return a metric's points past a step; none for a metric that the run does not have. Raises NotFound."""
        with self._snapshot() as connection:
            return read_series(connection, self._num(run_id), key, after_step)

    def sample(self, run_id: str, key: str, points: int) -> list[float]:
        """Return a metric's values at some places spread evenly over its steps, for a small curve. Raises NotFound."""
        with self._snapshot() as connection:
            return read_sample(connection, self._num(run_id), key, points)

    def latest(self, run_id: str) -> dict[str, LatestValue]:
        """Return each metric's value at its highest step, by name."""
        rows = self._rows(
            "SELECT metric_key.name, latest.step, latest.value, latest.at FROM latest"
            " JOIN metric_key ON metric_key.id = latest.key WHERE latest.run = (SELECT num FROM run WHERE id = ?)"
            " ORDER BY latest.key",
            (run_id,),
        )
        return {name: LatestValue(step, math.nan if value is None else value, at) for name, step, value, at in rows}

    def cluster(self) -> ClusterRow | None:
        """Return what a controller last said of its cluster; None where none ever did."""
        with self._snapshot() as connection:
            return read_cluster(connection)

    def count_runs(self) -> dict[str, int]:
        """Return how many runs have each status, archived ones left out."""
        return by_status(dict(self._rows("SELECT status, COUNT(*) FROM run WHERE NOT archived GROUP BY status")))

    def _rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with translated(self._database):
            return self._connection.execute(query, parameters).fetchall()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with translated(self._database):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    def _json_of_run(self, column: str, run_id: str) -> dict[str, Any]:
        rows = self._rows(f"SELECT {column} FROM run WHERE id = ?", (run_id,))  # noqa: S608 - `spec` or `facts`
        if not rows:
            raise _no_run(run_id)
        tree: dict[str, Any] = json.loads(rows[0][0])
        return tree

    def _num(self, run_id: str) -> int:
        rows = self._rows("SELECT num FROM run WHERE id = ?", (run_id,))
        if not rows:
            raise _no_run(run_id)
        return int(rows[0][0])


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"no run has the id {run_id!r}. `mambalab ls` lists the runs.")
