"""Runs attempts as processes of this machine, without Ray."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from workers.jobs.attempt import AttemptSpec
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Capacity, Node, Report
from workers.jobs.files import read_json
from workers.jobs.process import count_gpus
from workers.jobs.supervisor import Supervisor, leftovers
from workers.jobs.worker import worker_of


class SubprocessExecutor:
    """Workers are children of this process, but outlive it: the next controller finds them by their folders."""

    name = "subprocess"

    def __init__(self, *, cpus: float | None = None, gpus: int | None = None) -> None:
        self._capacity = Capacity((Node("local", cpus or os.cpu_count() or 1, _gpus(gpus), socket.gethostname()),))
        self._supervisors: dict[str, Supervisor] = {}

    def capacity(self) -> Capacity:
        """Return this machine, or what the caller granted of it."""
        return self._capacity

    def start(self, attempt: AttemptSpec) -> str:
        """Start a worker process, or find the one that was started for the same attempt, or for its ensemble."""
        handle = self._handle(attempt.directory)
        if handle not in self._supervisors:
            leader = self._supervisors.get(self._handle(attempt.pack[0])) if attempt.pack else None
            self._supervisors[handle] = Supervisor(attempt, leader)
        return handle

    def poll(self, handle: str, cursor: int) -> Report:
        """Return what is new; an attempt whose folder vanished is gone."""
        supervisor = self._find(handle)
        if supervisor is None:
            return leftovers(_directory(handle), cursor)
        return supervisor.poll(cursor)

    def stop(self, handle: str, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        supervisor = self._find(handle)
        if supervisor is not None:
            supervisor.stop(grace_s)

    def release(self, handle: str) -> None:
        """Kill what is left of an attempt, and forget it."""
        supervisor = self._find(handle)
        self._supervisors.pop(handle, None)
        if supervisor is not None:
            supervisor.release()

    def close(self) -> None:
        """Nothing to let go of: the workers run on."""
        self._supervisors.clear()

    def _handle(self, directory: str) -> str:
        return json.dumps({"executor": self.name, "directory": directory})

    def _find(self, handle: str) -> Supervisor | None:
        """Return the attempt's supervisor, made anew after a restart of the controller."""
        found = self._supervisors.get(handle)
        if found is None:
            tree = read_json(_directory(handle) / "spec.json")
            if tree is None or worker_of(_directory(handle)) is None:
                return None
            found = self._supervisors[handle] = Supervisor(AttemptSpec.from_json(tree))
        return found


def _directory(handle: str) -> Path:
    try:
        return Path(json.loads(handle)["directory"])
    except (ValueError, KeyError, TypeError) as error:
        raise ExecutorError(f"expected a handle of the subprocess executor, got {handle!r}") from error


def _gpus(granted: int | None) -> int:
    return count_gpus(os.environ) if granted is None else granted
