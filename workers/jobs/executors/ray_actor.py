"""The actor of one attempt, or of an ensemble's attempts. Ray is not imported here: the class becomes an actor where it is submitted."""

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
        first = AttemptSpec.from_json(attempt)
        leader = Supervisor(first)
        self._supervisors = {first.directory: leader}
        for tree in first.members:
            member = AttemptSpec.from_json(tree)
            self._supervisors[member.directory] = Supervisor(member, leader)
        self._host = f"{socket.gethostname()}/{os.getuid()}"

    def poll(self, directory: str, cursor: int, log_offset: int, host: str) -> tuple[Report, bytes, str]:
        """Return what is new of the attempt in a folder, and log bytes where whoever asks sits on another machine."""
        supervisor = self._supervisors[directory]
        report = supervisor.poll(cursor)
        log = b"" if host == self._host else supervisor.read_log(log_offset)
        return report, log, self._host

    def stop(self, directory: str, grace_s: float) -> None:
        """Ask an attempt to stop; kill its worker after the grace."""
        self._supervisors[directory].stop(grace_s)
