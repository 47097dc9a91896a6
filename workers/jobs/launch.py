"""Starts worker processes, or finds one that an earlier supervisor started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from workers.jobs.attempt import AttemptSpec
from workers.jobs.errors import ExecutorError
from workers.jobs.process import ProcessId

ROOT = Path(__file__).resolve().parents[2]  # where `workers` is imported from; a worker must import the same code
CLIENT = frozenset(
    {
        *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"),
        *("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"),
    }
)
"""What a worker that joins the cluster itself needs of Ray's environment; else it must look like one that knows no Ray."""

UNKNOWN_EXIT = -1000  # ended, but was not our child: the system does not tell how


class WorkerProcess(Protocol):
    """A started worker."""

    @property
    def pid(self) -> int:
        """Its process id, also that of its session and process group."""
        ...

    def exit_code(self) -> int | None:
        """Return None while it lives, then its exit code (minus the signal's number), or `UNKNOWN_EXIT`."""
        ...

    def close(self) -> None:
        """Let go of what is held for it; a worker on a leash ends."""
        ...


class ChildWorker:
    """A worker that is a child of this process, from a fresh interpreter."""

    def __init__(self, attempt: AttemptSpec) -> None:
        with (attempt.path / "log.txt").open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "workers.jobs.worker", attempt.directory],
                    stdin=subprocess.PIPE if attempt.leash else subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=worker_environment(attempt, os.environ),
                    cwd=attempt.run_directory,
                    start_new_session=True,
                )
            except OSError as error:
                raise ExecutorError(f"a worker for {attempt.key} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return None while it lives, then its exit code."""
        return self._process.poll()

    def close(self) -> None:
        """Let go of the leash, where there is one."""
        if self._process.stdin is not None:
            self._process.stdin.close()


class AdoptedWorker:
    """A worker that an earlier supervisor started: known by its process id alone."""

    def __init__(self, identity: ProcessId) -> None:
        self._identity = identity

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._identity.pid

    def exit_code(self) -> int | None:
        """Return None while it lives, then `UNKNOWN_EXIT`."""
        return None if self._identity.alive() else UNKNOWN_EXIT

    def close(self) -> None:
        """Nothing is held for it."""


def worker_environment(attempt: AttemptSpec, base: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: threads within its share, the GPUs that are its own, and this code to import.

    The thread counts must stand there before Python starts: the libraries read them when they are loaded.
    """
    kept = CLIENT if attempt.cluster else frozenset[str]()
    environment = {name: value for name, value in base.items() if not name.startswith("RAY_") or name in kept}
    threads = str(attempt.threads)
    environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if attempt.gpus == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif attempt.devices:
        environment["CUDA_VISIBLE_DEVICES"] = _visible(attempt.devices, base.get("CUDA_VISIBLE_DEVICES"))
    return with_this_code(environment)


def with_this_code(base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python imports the same code as this process, wherever it starts."""
    inherited = base.get("PYTHONPATH")
    return {**base, "PYTHONPATH": os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])}


def _visible(devices: Sequence[int], inherited: str | None) -> str:
    """Return the system's names of GPUs that are counted among those this process may see."""
    names = [name.strip() for name in inherited.split(",") if name.strip()] if inherited else []
    return ",".join(names[device] if device < len(names) else str(device) for device in devices)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a worker and everything it started. A group that is gone is none to signal."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
