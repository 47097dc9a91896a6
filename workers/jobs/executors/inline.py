"""Runs attempts in this very process, one after another: for debuggers, and for tests of what lies above."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from storage.home import AttemptPaths
from workers.jobs.attempt import EXIT_CODES, AttemptSpec
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Capacity, Node, Report
from workers.jobs.files import write_json
from workers.jobs.sink import SpoolSink
from workers.jobs.supervisor import leftovers, report_from
from workers.jobs.worker import run_attempt


@dataclass(slots=True)
class _Job:
    attempt: AttemptSpec
    stop: threading.Event = field(default_factory=threading.Event)
    status: str | None = None
    thread: threading.Thread | None = None


class InlineExecutor:
    """One attempt at a time, in a thread. Nothing can be killed here: `stop` asks, and the grace is without meaning."""

    name = "inline"

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._turn = threading.Lock()  # torch's settings belong to the process, so attempts take turns

    def capacity(self) -> Capacity:
        """Return one CPU: the attempts take turns."""
        return Capacity((Node("inline", 1.0, host=socket.gethostname()),))

    def start(self, attempt: AttemptSpec) -> str:
        """Start the attempt's thread, or find it."""
        handle = json.dumps({"executor": self.name, "directory": attempt.directory})
        if handle not in self._jobs:
            attempt.path.mkdir(parents=True, exist_ok=True)
            write_json(AttemptPaths(attempt.path).spec, attempt.to_json())
            job = self._jobs[handle] = _Job(attempt)
            job.thread = threading.Thread(target=self._run, args=(job,), name=attempt.key, daemon=True)
            job.thread.start()
        return handle

    def poll(self, handle: str, cursor: int) -> Report:
        """Return what is new; after a restart of this process nothing runs any more, and only the files are left."""
        job = self._jobs.get(handle)
        if job is None:
            return leftovers(_directory(handle), cursor)
        status = job.status
        if status is None and (job.thread is None or not job.thread.is_alive()) and job.status is None:
            return Report("gone", cursor=cursor, detail="the attempt's thread ended without a result")
        code = None if status is None else int(EXIT_CODES[status])
        return report_from(AttemptPaths(job.attempt.path), cursor, code, running=status is None)

    def stop(self, handle: str, grace_s: float) -> None:  # noqa: ARG002 - the grace is the protocol's
        """Ask the attempt to stop."""
        job = self._jobs.get(handle)
        if job is not None:
            job.stop.set()

    def release(self, handle: str) -> None:
        """Forget an attempt. One that still runs is asked to stop: a thread cannot be killed."""
        job = self._jobs.pop(handle, None)
        if job is not None:
            job.stop.set()

    def close(self) -> None:
        """Nothing outlives this process."""

    def _run(self, job: _Job) -> None:
        with self._turn:
            sink = SpoolSink(AttemptPaths(job.attempt.path).spool)
            job.status = run_attempt(job.attempt, sink, job.stop.is_set).status


def _directory(handle: str) -> Path:
    try:
        return Path(json.loads(handle)["directory"])
    except (ValueError, KeyError, TypeError) as error:
        raise ExecutorError(f"expected a handle of the inline executor, got {handle!r}") from error
