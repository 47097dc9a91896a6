"""Looks after attempts that another kind of executor started and whose controller is gone."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from workers.jobs.attempt import AttemptSpec
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Capacity, Report
from workers.jobs.supervisor import leftovers
from workers.jobs.worker import worker_of


class Remains:
    """Reads what such an attempt left behind. A worker that still runs on this machine is killed, at once or after the
    grace that `stop` gives it.

    A handle is the attempt's folder: {"directory": ...}.
    """

    name = "remains"

    def __init__(self) -> None:
        self._spared_until: dict[str, float] = {}

    def capacity(self) -> Capacity:
        """Return nothing: nothing is started here."""
        return Capacity(())

    def start(self, attempt: AttemptSpec) -> str:
        """Refuse. Raises ExecutorError."""
        raise ExecutorError(f"{attempt.key}: nothing is started here; this only looks after what others started")

    def poll(self, handle: str, cursor: int) -> Report:
        """Return what the attempt's files hold from a byte offset on, once its worker is dead."""
        directory = _directory(handle)
        worker = worker_of(directory)
        if worker is not None and worker.alive() and time.monotonic() < self._spared_until.get(handle, 0.0):
            return Report("running", cursor=cursor)
        return leftovers(directory, cursor)

    def stop(self, handle: str, grace_s: float) -> None:
        """Ask the worker to stop and spare it for so long."""
        worker = worker_of(_directory(handle))
        if worker is not None and worker.send(signal.SIGTERM):
            self._spared_until[handle] = time.monotonic() + grace_s

    def release(self, handle: str) -> None:
        """Forget an attempt."""
        self._spared_until.pop(handle, None)

    def close(self) -> None:
        """Nothing is held."""


def handle_of(directory: Path) -> str:
    """Return the handle of the attempt in a folder."""
    return json.dumps({"directory": str(directory)})


def _directory(handle: str) -> Path:
    return Path(json.loads(handle)["directory"])
