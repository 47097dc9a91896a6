"""The queue and the life of attempts: every step is a compare-and-set inside a write transaction of the repository.

queued --begin--> running --finish--> completed | failed | cancelled
  ^                  |                     |
  +---- retry_at ----+      requeue -------+ (not after completed)
"""

from __future__ import annotations

import sqlite3
from json import loads

from storage.events import add_event
from storage.recording import drop_abandoned, fence
from storage.records import AttemptEnd, PendingRequest, QueuedRun, RunningAttempt
from storage.status import AttemptStatus, RequestStatus


def select_queued(connection: sqlite3.Connection, now: float, limit: int | None) -> list[QueuedRun]:
    """Return runs that may start now, the most urgent first."""
    rows = connection.execute(
        "SELECT id, num, attempt, cpus, gpus, priority, max_attempts, spec, reason FROM run"
        " WHERE status = 'queued' AND (not_before IS NULL OR not_before <= ?) ORDER BY priority DESC, num LIMIT ?",
        (now, -1 if limit is None else limit),
    )
    return [QueuedRun(*row) for row in rows]


def select_head(
    connection: sqlite3.Connection, limit: int
) -> list[tuple[str, int, int, float, float | None, float | None]]:
    """Return the first of all runs that wait, in the queue's order: id, num, priority, cpus, gpus, not_before."""
    return connection.execute(
        "SELECT id, num, priority, cpus, gpus, not_before FROM run WHERE status = 'queued'"
        " ORDER BY priority DESC, num LIMIT ?",
        (limit,),
    ).fetchall()


def select_running(connection: sqlite3.Connection) -> list[RunningAttempt]:
    """Return the attempts at work, in the order of their runs."""
    rows = connection.execute(
        "SELECT run.id, attempt.number, attempt.executor, attempt.handle, attempt.started_at,"
        ' COALESCE(spool_cursor."offset", 0), run.heartbeat_at, run.cpus, run.gpus, run.max_attempts, run.spec'
        " FROM run JOIN attempt ON attempt.run_id = run.id AND attempt.number = run.attempt"
        " LEFT JOIN spool_cursor ON spool_cursor.run = run.num AND spool_cursor.attempt = run.attempt"
        " WHERE run.status = 'running' ORDER BY run.num"
    )
    return [RunningAttempt(*row) for row in rows]


def begin(connection: sqlite3.Connection, run_id: str, executor: str, now: float) -> int | None:
    """Make a queued run running and return the attempt's number; None where it is not queued any more."""
    begun = connection.execute(
        "UPDATE run SET status = 'running', attempt = attempt + 1, started_at = ?, finished_at = NULL, error = NULL,"
        " reason = NULL, not_before = NULL, heartbeat_at = NULL WHERE id = ? AND status = 'queued' RETURNING attempt",
        (now, run_id),
    ).fetchone()
    if begun is None:
        return None
    number = int(begun[0])
    connection.execute(
        "INSERT INTO attempt (run_id, number, status, executor, started_at) VALUES (?, ?, 'running', ?, ?)",
        (run_id, number, executor, now),
    )
    add_event(connection, now, "started", run_id, number, {"executor": executor})
    return number


def finish(connection: sqlite3.Connection, run_id: str, number: int, end: AttemptEnd) -> bool:
    """End an attempt and move its run on. False, and nothing done, where a newer one has begun or it has ended.

    Raises:
        ValueError: a completed attempt that asks to be tried again, or an end that is none.
    """
    if end.status is AttemptStatus.RUNNING or (end.status is AttemptStatus.COMPLETED and end.retry_at is not None):
        raise ValueError(f"an attempt cannot end as {end.status} with retry_at={end.retry_at}")
    run = fence(connection, run_id, number)
    if run is None:
        return False
    ended = connection.execute(
        "UPDATE attempt SET status = ?, finished_at = ?, exit_code = ?, reason = ?, error = ?, traceback = ?"
        " WHERE run_id = ? AND number = ? AND status = 'running' RETURNING COALESCE(resumed_from, 0)",
        (end.status.value, end.now, end.exit_code, end.reason, end.error, end.traceback, run_id, number),
    ).fetchone()
    if ended is None:
        return False
    if end.status is AttemptStatus.COMPLETED:
        drop_abandoned(connection, run, number, int(ended[0]))
    status = "queued" if end.retry_at is not None else end.status.of_run.value
    connection.execute(
        "UPDATE run SET status = ?, finished_at = ?, not_before = ?, reason = ?, error = ?,"
        " step = CASE WHEN ?6 = 'completed' AND ?7 IS NOT NULL THEN ?7 ELSE MAX(step, COALESCE(?7, 0)) END"
        " WHERE num = ?8",
        (
            status,
            None if end.retry_at is not None else end.now,
            end.retry_at,
            end.reason,
            end.error,
            end.status.value,
            end.step,
            run,
        ),
    )
    told = {"reason": end.reason, "error": end.error, "retry_at": end.retry_at}
    data = {key: value for key, value in told.items() if value is not None}
    add_event(connection, end.now, end.status.value, run_id, number, data)
    return True


def cancel_queued(connection: sqlite3.Connection, run_id: str, now: float) -> bool:
    """Cancel a run that waits. False where it does not wait."""
    changed = connection.execute(
        "UPDATE run SET status = 'cancelled', finished_at = ?, not_before = NULL, reason = 'cancelled'"
        " WHERE id = ? AND status = 'queued'",
        (now, run_id),
    ).rowcount
    if changed:
        add_event(connection, now, "cancelled", run_id)
    return bool(changed)


def requeue(connection: sqlite3.Connection, run_id: str, now: float) -> bool:
    """Queue a failed or cancelled run again, with one attempt more to spend. False for any other run."""
    changed = connection.execute(
        "UPDATE run SET status = 'queued', max_attempts = max_attempts + 1, finished_at = NULL, not_before = NULL,"
        " reason = NULL, error = NULL WHERE id = ? AND status IN ('failed', 'cancelled')",
        (run_id,),
    ).rowcount
    if changed:
        add_event(connection, now, "requeued", run_id)
    return bool(changed)


def select_requests(connection: sqlite3.Connection) -> list[PendingRequest]:
    """Return what nobody has settled, oldest first."""
    rows = connection.execute(
        "SELECT request.id, request.kind, request.run_id, request.payload, run.status FROM request"
        " JOIN run ON run.id = request.run_id WHERE request.status = 'pending' ORDER BY request.id"
    )
    return [PendingRequest(id_, kind, run_id, loads(payload), status) for id_, kind, run_id, payload, status in rows]


def settle(connection: sqlite3.Connection, request_id: int, done: bool, outcome: str, now: float) -> None:
    """Close a request. One that is settled stays as it is."""
    connection.execute(
        "UPDATE request SET status = ?, outcome = ?, settled_at = ? WHERE id = ? AND status = 'pending'",
        ((RequestStatus.DONE if done else RequestStatus.REFUSED).value, outcome, now, request_id),
    )
