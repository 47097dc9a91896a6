"""The lock that makes a controller the only one of its store, and what that controller says of itself."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.home import HomePaths
from workers.jobs.errors import ControllerError
from workers.jobs.files import read_json, tail

SPAWN_PATIENCE_S = 200.0  # for the spawn lock: a start holds it for 30 s at most, a `down` for 180 s
PROBE_PATIENCE_S = 1.0  # a probe holds the lock for microseconds; a controller holds it for life


class ControllerLock:
    """A lock on a file, held until `release` or the end of the process, however that comes.

    Args:
        path: the lock's file, made when missing.
        descriptor: an open descriptor that holds the lock already, from the program that this process was before.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """The open file that holds the lock. Raises ControllerError where it is not held."""
        if self._descriptor is None:
            raise ControllerError(f"{self._path} is not held by this process")
        return self._descriptor

    def acquire(self, patience_s: float = PROBE_PATIENCE_S) -> bool:
        """Take the lock; False where another process holds it for longer than a probe would."""
        if self._descriptor is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.01)
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def sole_spawner(paths: HomePaths) -> Iterator[None]:
    """Be the only process that starts or ends a store's controller; wait for another one that does.

    Raises:
        ControllerError: another has been at it for longer than either takes.
    """
    lock = ControllerLock(paths.spawn_lock)
    if not lock.acquire(SPAWN_PATIENCE_S):
        raise ControllerError(
            f"another process has been starting or ending the controller of {paths.root} for {SPAWN_PATIENCE_S:.0f} s. The end "
            f"of its log, {paths.controller_log}:\n{tail(paths.controller_log)}"
        )
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Say whether a process holds the lock on a file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two probes do not take each other for a holder
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@dataclass(frozen=True, slots=True)
class ControllerRecord:
    """What a live controller says of itself, and a dead one leaves behind.

    Attributes:
        pid, created: the process (`ProcessId`), on `host`.
        executor: how it runs attempts.
        address: the cluster that it joined; empty for one of its own, or none.
        cluster: the Ray head that it started (`ClusterRecord`), or None.
        started_at: seconds since 1970.
    """

    pid: int
    created: float
    host: str
    executor: str
    address: str
    cluster: Mapping[str, Any] | None
    started_at: float

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        return asdict(self)

    @property
    def here(self) -> bool:
        """Whether the controller is on this machine."""
        return self.host == socket.gethostname()


def read_record(paths: HomePaths) -> ControllerRecord | None:
    """Return what the newest controller says of itself; None where none has said anything that can be read."""
    tree = read_json(paths.controller_json)
    if tree is None:
        return None
    try:
        return ControllerRecord(**{name: tree[name] for name in ControllerRecord.__dataclass_fields__})
    except KeyError:
        return None
