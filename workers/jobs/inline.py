"""The controller in this very process, for debuggers and small machines: it runs the queue to its end and returns."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from storage.home import HomePaths
from workers.jobs.attempt import TRIAL
from workers.jobs.clock import SystemClock
from workers.jobs.controller import Controller
from workers.jobs.errors import ControllerError
from workers.jobs.executors.inline import InlineExecutor
from workers.jobs.files import write_json
from workers.jobs.lock import ControllerLock, ControllerRecord, read_record
from workers.jobs.process import ProcessId
from workers.jobs.service import end_left_cluster
from workers.jobs.settings import GRACE_S, ControllerSettings


def run_inline(paths: HomePaths, *, trial: str = TRIAL, grace_s: float = GRACE_S) -> None:
    """Run everything that is queued in the store, one attempt after another, in a thread of this process.

    An interrupt, or SIGTERM, asks the attempt to save its state, queues its run again, and raises KeyboardInterrupt.

    Raises:
        ControllerError: another controller holds the store.
    """
    lock = ControllerLock(paths.controller_lock)
    if not lock.acquire():
        holder = read_record(paths)
        who = "another controller" if holder is None else f"a controller (process {holder.pid} on {holder.host})"
        raise ControllerError(
            f"{who} holds {paths.root}, so the queue cannot be run here. It runs what is queued itself; "
            "`mambalab down` ends it."
        )
    # A trial that holds the interpreter for long must not pass for dead: it is this very process
    settings = ControllerSettings(trial=trial, idle_s=0.0, silence_s=math.inf, start_s=math.inf, grace_s=grace_s)
    clock = SystemClock()
    try:
        end_left_cluster(paths, grace_s=grace_s)
        record = _record().to_json()
        write_json(paths.controller_json, record)
        controller = Controller(paths, InlineExecutor(), settings, clock=clock, exclusive=True, record=record)
        try:
            with _interrupts_end(controller) as interrupted:
                controller.run()
        finally:
            controller.close()
        if interrupted:
            raise KeyboardInterrupt
    finally:
        paths.controller_json.unlink(missing_ok=True)
        clock.close()
        lock.release()


@contextmanager
def _interrupts_end(controller: Controller) -> Iterator[list[int]]:
    """End the controller at the first interrupt, this process at the second. Yields the signals that came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread gets signals, and may say what they do
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        controller.end()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record() -> ControllerRecord:
    me = ProcessId.of(os.getpid())
    return ControllerRecord(
        pid=os.getpid(),
        created=me.created if me is not None else 0.0,
        host=socket.gethostname(),
        executor="inline",
        address="",
        cluster=None,
        started_at=time.time(),
    )
