"""The store's write side: submissions, the queue, and what attempts report. One controller at a time uses it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from storage import queue, submitting
from storage.cluster import ClusterRow, write_cluster
from storage.connect import store_error
from storage.engine import driver_connection, writer_engine
from storage.home import HomePaths
from storage.migrate import migrate
from storage.recording import KeyTable, record_batch
from storage.records import (
    AttemptEnd,
    NewAblation,
    NewProvenance,
    NewRun,
    PendingRequest,
    QueuedRun,
    RecordBatch,
    RunningAttempt,
    Submitted,
)

__all__ = [
    "AttemptEnd",
    "NewAblation",
    "NewProvenance",
    "NewRun",
    "PendingRequest",
    "QueuedRun",
    "RecordBatch",
    "Repository",
    "RunningAttempt",
    "Submitted",
]


class Repository:
    """Writes a store. Every method is one transaction; what the method's result says is on disk when it returns."""

    def __init__(self, paths: HomePaths) -> None:
        """Open the store, making or migrating it first. Raises what `storage.migrate.migrate` does."""
        migrate(paths)
        self._database = paths.database
        self._engine = writer_engine(paths.database)
        self._keys = KeyTable()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Closing twice does nothing more."""
        self._engine.dispose()

    def submit(self, *, ablation: NewAblation | None, runs: Sequence[NewRun], provenance: NewProvenance) -> Submitted:
        """Store an ablation (or none) with its runs, queued in their order."""
        with self._transaction() as transaction:
            return submitting.submit(transaction, ablation, runs, provenance, time.time())

    def extend(self, ablation_id: str, runs: Sequence[NewRun], provenance: NewProvenance) -> Submitted:
        """Add runs with further seeds to an ablation, queued in their order.

        Raises:
            NotFound, Conflict: no such ablation; it has a run of such a trial and seed already.
        """
        with self._transaction() as transaction:
            return submitting.extend(transaction, ablation_id, runs, provenance, time.time())

    def queued(self, now: float, limit: int | None = None) -> list[QueuedRun]:
        """Return the runs that may start at `now`: higher priority first, then the older."""
        with self._reading() as connection:
            return queue.select_queued(connection, now, limit)

    def count_waiting(self) -> int:
        """Return how many runs are queued, those that wait for a retry included."""
        with self._reading() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM run WHERE status = 'queued'").fetchone()[0])

    def begin_attempt(self, run_id: str, *, executor: str, now: float) -> int | None:
        """Take a run from the queue and return its new attempt's number; None where it is not queued any more."""
        with self._writing() as connection:
            return queue.begin(connection, run_id, executor, now)

    def set_handle(self, run_id: str, number: int, handle: str) -> None:
        """Keep the executor's handle, by which a later controller finds the attempt again."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE attempt SET handle = ? WHERE run_id = ? AND number = ?", (handle, run_id, number)
            )

    def running(self) -> list[RunningAttempt]:
        """Return the attempts at work, in the order of their runs."""
        with self._reading() as connection:
            return queue.select_running(connection)

    def record(self, run_id: str, number: int, batch: RecordBatch) -> bool:
        """Store a piece of an attempt's spool: metrics, notes and cursor together.

        Returns False, and stores nothing, where a newer attempt exists or the cursor is not ahead of the stored one: a
        piece delivered twice changes nothing. The newest attempt may still report after its end.

        Raises:
            NotFound, Conflict: no such run; an attempt that has not begun.
        """
        return self.record_many([(run_id, number, batch)])[0]

    def record_many(self, pieces: Sequence[tuple[str, int, RecordBatch]]) -> list[bool]:
        """Store several attempts' pieces in one transaction, each as `record` does, and return what each did."""
        with self._writing() as connection:
            return [record_batch(connection, self._keys, *piece) for piece in pieces]

    def finish_attempt(self, run_id: str, number: int, end: AttemptEnd) -> bool:
        """End an attempt; its run ends with it, or is queued again where `end.retry_at` says when.

        A completed attempt takes along what earlier ones logged past the step it resumed from. Returns False, and does
        nothing, where a newer attempt exists or this one has ended before.

        Raises:
            NotFound, Conflict: no such run; an attempt that has not begun.
        """
        with self._writing() as connection:
            return queue.finish(connection, run_id, number, end)

    def pending_requests(self) -> list[PendingRequest]:
        """Return what users asked and nobody has settled, oldest first."""
        with self._reading() as connection:
            return queue.select_requests(connection)

    def settle_request(self, request_id: int, *, done: bool, outcome: str, now: float) -> None:
        """Close a request as done or refused; `outcome` tells the user why."""
        with self._writing() as connection:
            queue.settle(connection, request_id, done, outcome, now)

    def cancel_queued(self, run_id: str, now: float) -> bool:
        """Cancel a run that waits. False where it does not wait."""
        with self._writing() as connection:
            return queue.cancel_queued(connection, run_id, now)

    def requeue(self, run_id: str, now: float) -> bool:
        """Queue a failed or cancelled run again, with one attempt more to spend. False for any other run."""
        with self._writing() as connection:
            return queue.requeue(connection, run_id, now)

    def set_priority(self, run_id: str, priority: int) -> bool:
        """Change the priority of a run. False where it does not wait."""
        with self._writing() as connection:
            query = "UPDATE run SET priority = ? WHERE id = ? AND status = 'queued'"
            return bool(connection.execute(query, (priority, run_id)).rowcount)

    def queue_head(self, limit: int) -> list[tuple[str, int, int, float, float | None, float | None]]:
        """Return the first queued runs, those that wait for a retry too: id, num, priority, cpus, gpus, not_before."""
        with self._reading() as connection:
            return queue.select_head(connection, limit)

    def set_cluster(self, row: ClusterRow) -> None:
        """Say how the cluster is; what was said before is forgotten."""
        with self._writing() as connection:
            write_cluster(connection, row)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Open a write transaction, commit it at the end, and roll it back on any error."""
        try:
            with self._translated(), self._engine.begin() as transaction:
                yield transaction
        except BaseException:
            self._keys.forget()  # numbers given to new names went with the transaction
            raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction on the driver's own connection, which is what polling and metrics need."""
        with self._transaction() as transaction:
            yield driver_connection(transaction.connection)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the driver's own connection outside any transaction: polls wait for no writer."""
        with self._translated():
            borrowed = self._engine.raw_connection()
            try:
                yield driver_connection(borrowed)
            finally:
                borrowed.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn errors about the file into the store's own."""
        try:
            yield
        except DBAPIError as error:
            if not isinstance(error.orig, sqlite3.Error):
                raise
            raise store_error(error.orig, self._database) from error
        except sqlite3.Error as error:
            raise store_error(error, self._database) from error
