"""Supervises one worker: starts or finds it, reads its spool, stops it. Shared by all executors with processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.home import AttemptPaths
from workers.jobs.attempt import EXIT_CODES, AttemptSpec, Outcome, WorkerExit
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Report
from workers.jobs.files import read_json, write_json
from workers.jobs.launch import UNKNOWN_EXIT, AdoptedWorker, ChildWorker, WorkerProcess, signal_group
from workers.jobs.process import ProcessId
from workers.jobs.spool import CHUNK_BYTES, is_being_written, read_from
from workers.jobs.worker import LAUNCH_FILE, STOP_FILE, claimed_by, worker_of
from workers.parallel import processes


class Supervisor:
    """One attempt's worker process, seen from whoever is responsible for it.

    Making one starts the worker, unless the attempt's folder shows that one was started before: then that one is
    supervised, be it alive or dead. A second worker for the same attempt is impossible on one machine, since a worker
    holds a lock on its spool and gives way where it cannot get it.

    The attempts of an ensemble have one worker, which is started for the first of them; the others have supervisors of
    their own. One of them is asked to stop through a file, and is over once its result is there.

    Args:
        leader: for an attempt that another one's worker serves: the supervisor of that one, where it is at hand.

    Raises:
        ExecutorError: the process cannot be started, or the ensemble's was not.
    """

    def __init__(self, attempt: AttemptSpec, leader: Supervisor | None = None) -> None:
        self.attempt = attempt
        self.paths = AttemptPaths(attempt.path)
        self._killer: threading.Timer | None = None
        attempt.path.mkdir(parents=True, exist_ok=True)
        earlier = worker_of(attempt.path)
        self._worker: WorkerProcess
        if earlier is None:
            self._worker = self._launch()
            return
        tree = read_json(self.paths.spec)
        self.attempt = attempt if tree is None else AttemptSpec.from_json(tree)  # that says with whom it was started
        if leader is not None and leader._worker.pid == earlier.pid:
            self._worker = leader._worker  # a parent learns how its child ended
        else:
            self._worker = AdoptedWorker(earlier)

    def poll(self, cursor: int, limit: int = CHUNK_BYTES) -> Report:
        """Return the worker's state and whole spool lines from a byte offset."""
        code = self._exit_code()  # asked before the spool is read: what was written before the end is then in it
        if code is not None and _ranks_write(self.paths, self.attempt.spec):
            code = None
        pack = self.attempt.pack
        # once all are over the worker ends by itself, as one that serves a single attempt does
        if pack and self.paths.result.exists() and (code is not None or serves_others(self.attempt.path, pack)):
            code = result_code(self.paths)
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
        if self.attempt.pack:
            (self.attempt.path / STOP_FILE).touch()
        else:
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
        """Kill the worker and everything in its process group, unless the attempt is over and its ensemble is not."""
        if self._exit_code() is None and not serves_others(self.attempt.path, self.attempt.pack):
            signal_group(self._worker.pid, signal.SIGKILL)

    def release(self) -> None:
        """Kill what is left of the worker, and let go of it."""
        if self._killer is not None:
            self._killer.cancel()
        self.kill()
        if not serves_others(self.attempt.path, self.attempt.pack):
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
        if self.attempt.follows:
            raise ExecutorError(
                f"{self.attempt.key}: the worker of its ensemble, {self.attempt.leader}, was not started"
            )
        attempts = [self.attempt, *(AttemptSpec.from_json(tree) for tree in self.attempt.members)]
        for attempt in attempts:
            attempt.path.mkdir(parents=True, exist_ok=True)
            Path(attempt.run_directory).mkdir(parents=True, exist_ok=True)
            write_json(AttemptPaths(attempt.path).spec, attempt.to_json())
        worker = ChildWorker(self.attempt)
        identity = ProcessId.of(worker.pid)
        if identity is not None:
            for attempt in attempts:
                write_json(attempt.path / LAUNCH_FILE, identity.to_json())
        return worker


def _ranks_write(paths: AttemptPaths, spec: Mapping[str, Any]) -> bool:
    """Say whether a process that a worker started still reports: its rows are the attempt's until it has ended too.

    Whoever starts them ends them when their worker is gone, but not in the same moment. The next attempt may go on from a
    checkpoint that they saved meanwhile, and the rows up to that would be missing.
    """
    return processes(spec) > 1 and is_being_written(paths.spool)


def serves_others(directory: Path, pack: Sequence[str]) -> bool:
    """Say whether an attempt is over while others of its ensemble are not: their worker is then theirs."""
    over = {folder: AttemptPaths(Path(folder)).result.exists() for folder in pack}
    return over.get(str(directory), False) and not all(over.values())


def result_code(paths: AttemptPaths) -> int:
    """Return the exit code of a worker that served one attempt alone and left this result."""
    outcome = Outcome.from_json(read_json(paths.result) or {"status": "failed", "reason": "error"})
    return EXIT_CODES[outcome.status]


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

    The state is `exited` where the worker left a result, else `gone`. The exit code is not known, but for an attempt of an
    ensemble: there it is that of a worker that served this attempt alone, as a supervisor would say.
    """
    worker = worker_of(directory)
    if worker is not None and worker.alive():
        signal_group(worker.pid, signal.SIGKILL)
        return Report("running", cursor=cursor)  # asked again once it is dead: its last lines may still be on their way
    paths = AttemptPaths(directory)
    tree = read_json(paths.spec) or {}
    if _ranks_write(paths, tree.get("spec", {})):
        return report_from(paths, cursor, None, running=True)
    packed = paths.result.exists() and bool(tree.get("pack"))
    report = report_from(paths, cursor, result_code(paths) if packed else UNKNOWN_EXIT, running=False)
    return report if report.result is not None else replace(report, state="gone")
