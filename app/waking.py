"""Requests and queued runs take effect when somebody acts on them: this makes sure that somebody does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.home import HomePaths
    from workers.jobs.submission import SubmitOptions

DEFAULT_EXECUTOR = "ray"


def choose_executor(paths: HomePaths, asked: str | None) -> str:
    """Return the executor that is asked for; by default that of the living controller, else Ray."""
    from workers.jobs.lock import read_record
    from workers.jobs.submission import controller_alive

    if asked is not None:
        return asked
    record = read_record(paths) if controller_alive(paths) else None
    return record.executor if record is not None else DEFAULT_EXECUTOR


def work_on(paths: HomePaths, options: SubmitOptions) -> None:
    """Make sure that what is queued gets done: by a controller, or by this process with the inline executor.

    Raises:
        ControllerError: the controller does not start.
    """
    from app.console import say
    from workers.jobs.submission import ensure_controller

    if options.executor != "inline":
        ensure_controller(paths, options)
        return
    from workers.jobs.inline import run_inline

    say("working in this process, one run after another")
    run_inline(paths)


def act_on_cancellations(paths: HomePaths) -> None:
    """See to the pending cancellations where no controller is alive to do it.

    Runs that wait are cancelled here, under the controller's lock. Runs at work belong to a controller that died: one
    like it is started, finds them and stops them.
    """
    from app.launching import command_line
    from storage.repository import Repository
    from storage.status import RequestKind
    from workers.jobs.lock import ControllerLock, read_record
    from workers.jobs.submission import SubmitOptions, ensure_controller

    lock = ControllerLock(paths.controller_lock)
    if not lock.acquire(patience_s=0.0):
        return  # the living controller acts on them
    try:
        with Repository(paths) as repository:
            for request in repository.pending_requests():
                if request.kind == RequestKind.CANCEL and repository.cancel_queued(request.run_id, time.time()):
                    repository.settle_request(
                        request.id, done=True, outcome="cancelled before it started", now=time.time()
                    )
            left = bool(repository.pending_requests())
    finally:
        lock.release()
    if left:
        last = read_record(paths)
        executor, address = (last.executor, last.address or None) if last else (DEFAULT_EXECUTOR, None)
        ensure_controller(paths, SubmitOptions(command=command_line(), executor=executor, address=address))
