"""What users ask through the store: cancel, retry, priority. Each request is settled once, done or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from storage.records import PendingRequest
from storage.repository import Repository
from storage.status import RequestKind, RunStatus
from workers.jobs.clock import Clock
from workers.jobs.retry import Reason
from workers.jobs.watch import of_the_store

log = logging.getLogger("mambalab.controller")

SETTLE_AT_MOST = 200  # in a round: between them the attempts at work want to be heard

Settled = tuple[bool, str]


@dataclass(slots=True)
class Requests:
    """Settles the pending requests.

    The cancellation of a running attempt stays pending until the attempt has ended, so that it outlives the controller.
    `stop` asks a run's attempt to stop, as often as it is told.
    """

    repository: Repository
    stop: Callable[[str, Reason], None]
    clock: Clock

    def tick(self) -> bool:
        """Act on what is asked; return whether more waits."""
        settled_count = 0
        for request in self.repository.pending_requests():
            try:
                settled = self._act(request)
            except Exception as error:
                if of_the_store(error):
                    raise
                log.exception("request %d", request.id)
                settled = (False, f"{type(error).__name__}: {error}")
            if settled is not None:
                done, outcome = settled
                self.repository.settle_request(request.id, done=done, outcome=outcome, now=self.clock.now())
                log.info("request %d, %s run %s: %s", request.id, request.kind, request.run_id, outcome)
                settled_count += 1
                if settled_count == SETTLE_AT_MOST:
                    return True
        return False

    def _act(self, request: PendingRequest) -> Settled | None:
        """Do what a request asks. None: it goes on being pending."""
        if request.kind == RequestKind.CANCEL:
            return self._cancel(request)
        if request.kind == RequestKind.RETRY:
            return self._retry(request)
        if request.kind == RequestKind.PRIORITY:
            return self._prioritise(request)
        return False, f"unknown kind {request.kind!r}: expected cancel, retry or priority"

    def _cancel(self, request: PendingRequest) -> Settled | None:
        status = request.run_status
        if status == RunStatus.RUNNING:
            self.stop(request.run_id, Reason.CANCELLED)
            return None
        if status == RunStatus.QUEUED and self.repository.cancel_queued(request.run_id, self.clock.now()):
            return True, "cancelled before it started"
        if status == RunStatus.CANCELLED:
            return True, "cancelled"
        return False, f"the run is {status}: only a queued or running one can be cancelled"

    def _retry(self, request: PendingRequest) -> Settled:
        if self.repository.requeue(request.run_id, self.clock.now()):
            return True, "queued again"
        return False, f"the run is {request.run_status}: only a failed or cancelled one can be retried"

    def _prioritise(self, request: PendingRequest) -> Settled:
        priority = request.payload.get("priority")
        if not isinstance(priority, int) or isinstance(priority, bool):
            return False, f"expected a whole number as priority, got {priority!r}"
        if self.repository.set_priority(request.run_id, priority):
            return True, f"priority {priority}"
        return False, f"the run is {request.run_status}: only a queued one has a priority"
