"""Starts a controller that outlives whoever starts it. Standard library and light modules only: `submit` waits for this."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from storage.home import HomePaths
from workers.jobs.attempt import ENSEMBLE, TRIAL
from workers.jobs.errors import ControllerError
from workers.jobs.launch import with_this_code
from workers.jobs.settings import GRACE_S, IDLE_S

EXIT_TAKEN = 3  # of a controller: another one holds the store
LOG_LIMIT_BYTES = 16 * 2**20
_STARTED: list[subprocess.Popen[bytes]] = []  # they are meant to outlive us; forgetting one would warn that it does


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How a submission is run.

    Attributes:
        command: the command line, for the record.
        executor: `ray` or `subprocess` for the controller that is started where none lives; `inline` starts none.
        address: HOST:PORT of a Ray cluster to join; None for one of the store's own.
        cpus: CPUs of this machine to use; None for all.
        priority: of the runs; higher ones start first.
        trial, ensemble: what runs, alone and as an ensemble, `module:name`.
        idle_s, grace_s: of a controller that is started (`ControllerSettings`).
    """

    command: str
    executor: str = "ray"
    address: str | None = None
    cpus: float | None = None
    priority: int = 0
    trial: str = TRIAL
    ensemble: str = ENSEMBLE
    idle_s: float = IDLE_S
    grace_s: float = GRACE_S


def daemon_command(paths: HomePaths, options: SubmitOptions) -> list[str]:
    """Return the command that starts the controller which the options ask for."""
    command = [sys.executable, "-m", "workers.jobs.daemon", str(paths.root), "--executor", options.executor]
    command += ["--idle-s", str(options.idle_s), "--grace-s", str(options.grace_s), "--trial", options.trial]
    command += ["--ensemble", options.ensemble]
    if options.address is not None:
        command += ["--address", options.address]
    if options.cpus is not None:
        command += ["--cpus", str(options.cpus)]
    return command


def spawn_controller(paths: HomePaths, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a controller as a process of its own, in a session of its own, that writes to the store's log alone."""
    forget_ended()
    paths.root.mkdir(parents=True, exist_ok=True)
    log = paths.controller_log
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("ab") as output:
        try:
            started = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=paths.root,
                env=with_this_code(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise ControllerError(f"the controller cannot be started: {error}") from error
    _STARTED.append(started)
    return started


def forget_ended() -> None:
    """Let go of the controllers that this process started and that have ended: until they are asked they stay zombies."""
    _STARTED[:] = [process for process in _STARTED if process.poll() is None]
