"""The actor of one attempt. Ray is not imported here: the class becomes an actor where it is submitted."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from workers.jobs.attempt import AttemptSpec
from workers.jobs.executors.base import Report
from workers.jobs.supervisor import Supervisor


class RunActor:
    """Supervises one worker on whatever machine Ray chose."""

    def __init__(self, attempt: Mapping[str, Any]) -> None:
        self._supervisor = Supervisor(AttemptSpec.from_json(attempt))
        self._host = f"{socket.gethostname()}/{os.getuid()}"

    def poll(self, cursor: int, log_offset: int, host: str) -> tuple[Report, bytes, str]:
        """Return what is new, and log bytes where whoever asks sits on another machine."""
        report = self._supervisor.poll(cursor)
        log = b"" if host == self._host else self._supervisor.read_log(log_offset)
        return report, log, self._host

    def stop(self, grace_s: float) -> None:
        """Ask the worker to stop; kill it after the grace."""
        self._supervisor.stop(grace_s)
