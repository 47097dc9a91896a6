"""Requests and queued runs take effect when somebody acts on them: this makes sure that somebody does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.home import command_line

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
    try:
        run_inline(paths)
    except KeyboardInterrupt:
        say("what was at work has saved its state and waits in the queue; `mambalab retry REF` goes on with it")
        raise


def act_on_cancellations(paths: HomePaths) -> None:
    """See to the pending cancellations where no controller is alive to do it.

    Runs that wait are cancelled here: the store does that only to a run that waits still, so a controller that starts
    meanwhile is no matter. Runs at work belong to a controller that died: one like it is started, finds and stops them.
    """
    from workers.jobs.submission import controller_alive, ensure_controller

    if not controller_alive(paths) and _settle_what_waits(paths):
        ensure_controller(paths, options_of_the_last(paths))


def act_on_priorities(paths: HomePaths) -> None:
    """Give queued runs their new place where no controller is alive to do it. Starts nothing."""
    from workers.jobs.submission import controller_alive

    if not controller_alive(paths):
        _settle_what_waits(paths)


def _settle_what_waits(paths: HomePaths) -> bool:
    """Settle the requests about queued runs that need no controller; return whether others are left."""
    from storage.repository import Repository
    from storage.status import RequestKind

    with Repository(paths) as repository:
        for request in repository.pending_requests():
            now = time.time()
            if request.kind == RequestKind.CANCEL and repository.cancel_queued(request.run_id, now):
                repository.settle_request(request.id, done=True, outcome="cancelled before it started", now=now)
            elif request.kind == RequestKind.PRIORITY:
                number = int(request.payload["priority"])
                done = repository.set_priority(request.run_id, number)
                outcome = f"priority {number}" if done else "only a queued run has a priority"
                repository.settle_request(request.id, done=done, outcome=outcome, now=now)
        return bool(repository.pending_requests())


def go_on_with_the_queue(paths: HomePaths) -> None:
    """Start a controller like the last one where runs or requests wait for one. Raises ControllerError."""
    from workers.jobs.submission import ensure_controller

    ensure_controller(paths, options_of_the_last(paths))


def options_of_the_last(paths: HomePaths) -> SubmitOptions:
    """Return options for a controller like the last one of the store; Ray's where there was none."""
    from workers.jobs.lock import read_record
    from workers.jobs.submission import SubmitOptions

    last = read_record(paths)
    executor = DEFAULT_EXECUTOR if last is None else last.executor
    if executor == "inline":  # its process is gone and needs no other; what it left is found by any controller
        executor = "subprocess"
    return SubmitOptions(
        command=command_line(), executor=executor, address=None if last is None else last.address or None
    )


def wake(paths: HomePaths, kind: str) -> None:
    """Have a request of this kind acted on: `cancel` and `priority` start nothing that waits, `retry` goes on with the queue."""
    if kind == "cancel":
        act_on_cancellations(paths)
    elif kind == "priority":
        act_on_priorities(paths)
    elif kind == "retry":
        go_on_with_the_queue(paths)
