"""The few writes of a user interface: requests to the controller, remarks, tags, archiving. Standard library only.

Each function opens the store, writes in one transaction and closes it again: an interface holds no lock while it waits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from storage.connect import open_store, translated
from storage.encoding import dumps
from storage.errors import NotFound
from storage.home import HomePaths
from storage.status import FARTHEST_PRIORITY, RequestKind

_TIMEOUT_S = 10.0


def request(
    paths: HomePaths, kind: RequestKind, run_ids: Sequence[str], payload: Mapping[str, Any] | None = None
) -> list[int]:
    """Ask the controller to cancel, retry or reprioritise runs, all or none; return the requests' numbers.

    Raises:
        NotFound: a run that does not exist.
        ValueError: a priority request whose payload has no whole number `priority`, or too large a one.
    """
    asked = RequestKind(kind)
    body = dict(payload or {})
    if asked is RequestKind.PRIORITY:
        priority = body.get("priority")
        if not isinstance(priority, int) or not -FARTHEST_PRIORITY <= priority <= FARTHEST_PRIORITY:
            limits = f"between {-FARTHEST_PRIORITY:,} and {FARTHEST_PRIORITY:,}"
            raise ValueError(f"a priority is a whole number {limits}, got {priority!r}")
    with _writing(paths) as connection:
        _check_runs(connection, run_ids)
        numbers = []
        for run_id in run_ids:
            cursor = connection.execute(
                "INSERT INTO request (kind, run_id, payload, status, created_at) VALUES (?, ?, ?, 'pending', ?)",
                (asked.value, run_id, dumps(body), time.time()),
            )
            numbers.append(int(cursor.lastrowid or 0))
        return numbers


def add_note(paths: HomePaths, run_id: str, body: str) -> int:
    """Keep a remark on a run and return its number.

    Raises:
        NotFound: a run that does not exist.
        ValueError: an empty remark.
    """
    text = body.strip()
    if not text:
        raise ValueError("a note needs some text")
    with _writing(paths) as connection:
        _check_runs(connection, [run_id])
        query = "INSERT INTO note (run_id, body, created_at) VALUES (?, ?, ?)"
        return int(connection.execute(query, (run_id, text, time.time())).lastrowid or 0)


def note_ablation(paths: HomePaths, ablation_id: str, body: str) -> None:
    """Set the one remark that an ablation has; an empty one removes it. Raises NotFound."""
    with _writing(paths) as connection:
        changed = connection.execute("UPDATE ablation SET note = ? WHERE id = ?", (body.strip(), ablation_id)).rowcount
        if not changed:
            raise NotFound.no_ablation(ablation_id)


def add_tags(paths: HomePaths, run_ids: Sequence[str], names: Sequence[str]) -> None:
    """Put tags on runs; those they have already stay.

    Raises:
        NotFound: a run that does not exist.
        ValueError: a tag that is empty or holds white space, a comma or what cannot be printed.
    """
    for name in names:
        if not name or "," in name or not name.isprintable() or any(map(str.isspace, name)):
            raise ValueError(f"a tag is one word without commas, got {name!r}")
    with _writing(paths) as connection:
        _check_runs(connection, run_ids)
        connection.executemany(
            "INSERT INTO tag (run_id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            [(run_id, name, time.time()) for run_id in run_ids for name in names],
        )


def remove_tags(paths: HomePaths, run_ids: Sequence[str], names: Sequence[str]) -> None:
    """Take tags off runs; those they do not have are no matter. Raises NotFound for a run that does not exist."""
    with _writing(paths) as connection:
        _check_runs(connection, run_ids)
        pairs = [(run_id, name) for run_id in run_ids for name in names]
        connection.executemany("DELETE FROM tag WHERE run_id = ? AND name = ?", pairs)


def archive(paths: HomePaths, run_ids: Sequence[str], archived: bool) -> None:
    """Hide runs from lists and tables, or show them again. Nothing is removed. Raises NotFound."""
    with _writing(paths) as connection:
        _check_runs(connection, run_ids)
        connection.executemany("UPDATE run SET archived = ? WHERE id = ?", [(archived, run_id) for run_id in run_ids])


def archive_ablation(paths: HomePaths, ablation_id: str, archived: bool) -> None:
    """Hide an ablation with all its runs, or show them again. Raises NotFound."""
    with _writing(paths) as connection:
        changed = connection.execute("UPDATE ablation SET archived = ? WHERE id = ?", (archived, ablation_id)).rowcount
        if not changed:
            raise NotFound.no_ablation(ablation_id)
        connection.execute("UPDATE run SET archived = ? WHERE ablation_id = ?", (archived, ablation_id))


@contextmanager
def _writing(paths: HomePaths) -> Iterator[sqlite3.Connection]:
    with (
        translated(paths.database),
        closing(open_store(paths.database, write=True, timeout_s=_TIMEOUT_S)) as connection,
    ):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _check_runs(connection: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        if connection.execute("SELECT 1 FROM run WHERE id = ?", (run_id,)).fetchone() is None:
            raise NotFound(f"no run has the id {run_id!r}. `mambalab ls` lists the runs.")
