"""Supervises one worker: starts or finds it, reads its spool, stops it. Shared by all executors with processes."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

from storage.home import AttemptPaths
from workers.jobs.attempt import AttemptSpec, WorkerExit
from workers.jobs.executors.base import Report
from workers.jobs.files import read_json, write_json
from workers.jobs.launch import UNKNOWN_EXIT, AdoptedWorker, ChildWorker, WorkerProcess, signal_group
from workers.jobs.process import ProcessId
from workers.jobs.spool import CHUNK_BYTES, read_from
from workers.jobs.worker import LAUNCH_FILE, claimed_by, worker_of


class Supervisor:
    """One attempt's worker process, seen from whoever is responsible for it.

    Making one starts the worker, unless the attempt's folder shows that one was started before: then that one is
    supervised, be it alive or dead. A second worker for the same attempt is impossible on one machine, since a worker
    holds a lock on its spool and gives way where it cannot get it.

    Raises:
        ExecutorError: the process cannot be started.
    """

    def __init__(self, attempt: AttemptSpec) -> None:
        self.attempt = attempt
        self.paths = AttemptPaths(attempt.path)
        self._killer: threading.Timer | None = None
        attempt.path.mkdir(parents=True, exist_ok=True)
        earlier = worker_of(attempt.path)
        self._worker: WorkerProcess = self._launch() if earlier is None else AdoptedWorker(earlier)

    def poll(self, cursor: int, limit: int = CHUNK_BYTES) -> Report:
        """Return the worker's state and whole spool lines from a byte offset."""
        code = self._exit_code()  # asked before the spool is read: what was written before the end is then in it
        return report_from(self.paths, cursor, code, running=code is None, limit=limit)

    def read_log(self, offset: int, limit: int = 2**20) -> bytes:
        """Return log bytes from an offset, for an executor on another machine."""
        try:
            with self.paths.log.open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def stop(self, grace_s: float) -> None:
        """Ask the worker to stop, and kill it and its children after a grace. Returns at once."""
        if self._exit_code() is not None:
            return
        try:
            os.kill(self._worker.pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it ended a moment ago
        if self._killer is not None:
            self._killer.cancel()
        self._killer = threading.Timer(grace_s, self.kill)
        self._killer.daemon = True
        self._killer.start()

    def kill(self) -> None:
        """Kill the worker and everything in its process group."""
        if self._exit_code() is None:
            signal_group(self._worker.pid, signal.SIGKILL)

    def release(self) -> None:
        """Kill what is left of the worker, and let go of it."""
        if self._killer is not None:
            self._killer.cancel()
        self.kill()
        self._worker.close()

    def _exit_code(self) -> int | None:
        code = self._worker.exit_code()
        if code == WorkerExit.DUPLICATE:
            winner = claimed_by(self.attempt.path)
            if winner is None:
                return None  # it holds the spool and is about to say who it is
            self._worker = AdoptedWorker(winner)
            return self._worker.exit_code()
        return code

    def _launch(self) -> WorkerProcess:
        write_json(self.paths.spec, self.attempt.to_json())
        worker = ChildWorker(self.attempt)
        identity = ProcessId.of(worker.pid)
        if identity is not None:
            write_json(self.attempt.path / LAUNCH_FILE, identity.to_json())
        return worker


def report_from(
    paths: AttemptPaths, cursor: int, code: int | None, *, running: bool, limit: int = CHUNK_BYTES
) -> Report:
    """Return what an attempt's files say from a byte offset on; result.json counts once the worker has ended."""
    data, after = read_from(paths.spool, cursor, limit)
    report = Report("running", spool=data, cursor=after)
    if running:
        return report
    result = read_json(paths.result)
    known = None if code == UNKNOWN_EXIT else code
    return replace(report, state="exited", exit_code=known, result=result)


def leftovers(directory: Path, cursor: int) -> Report:
    """Return what the files of an attempt hold whose supervisor is gone; kill its worker where it still runs here.

    The state is `exited` where the worker left a result, else `gone`.
    """
    worker = worker_of(directory)
    if worker is not None and worker.alive():
        signal_group(worker.pid, signal.SIGKILL)
        return Report("running", cursor=cursor)  # asked again once it is dead: its last lines may still be on their way
    report = report_from(AttemptPaths(directory), cursor, UNKNOWN_EXIT, running=False)
    return report if report.result is not None else replace(report, state="gone")
