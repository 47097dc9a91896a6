"""The controller: one loop that settles requests, starts queued runs, hears the attempts at work, and ends when idle.

There is one per store (`workers.jobs.lock`), and it alone writes run state and metrics. It holds nothing that matters in
memory: whatever moment it dies at, the next one goes on from the store and from the attempts' files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from storage.errors import StorageError
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from workers.jobs.clock import Clock, SystemClock
from workers.jobs.cluster_state import ClusterState
from workers.jobs.errors import ClusterError, ControllerError, StoreRemovedError
from workers.jobs.executors.base import Executor
from workers.jobs.ledger import Ledger
from workers.jobs.placing import Placer
from workers.jobs.requests import Requests
from workers.jobs.retry import Reason
from workers.jobs.settings import ControllerSettings
from workers.jobs.takeover import take_over
from workers.jobs.watch import Watch

log = logging.getLogger("mambalab.controller")

CAPACITY_EVERY_S = 1.0
QUEUE_EVERY_S = 0.5  # retries become due without any change in the store
STORE_PAUSE_S = 1.0
LEISURE = 4.0  # a round that took long is followed by so many times its own length of rest
LEISURE_AT_MOST_S = 1.0


class Ended(StrEnum):
    """Why the controller's loop ended."""

    IDLE = "idle"
    ASKED = "asked"


class Controller:
    """Drives one store's queue through one executor.

    Args:
        exclusive: attempts take turns on a whole machine, whatever they ask (`InlineExecutor`).
        record: what the controller says of itself (`ControllerRecord`); without it nothing is said of the cluster.
    """

    def __init__(
        self,
        paths: HomePaths,
        executor: Executor,
        settings: ControllerSettings | None = None,
        *,
        clock: Clock | None = None,
        exclusive: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self._paths = paths
        self._settings = settings or ControllerSettings()
        self._clock: Clock = clock or SystemClock()
        self._executor = executor
        self._repository = Repository(paths)
        self._reader = Reader(paths, timeout_s=30.0)
        self._ledger = Ledger(exclusive=exclusive)
        self.watch = Watch(paths, self._repository, self._reader, executor, self._ledger, self._settings, self._clock)
        self._requests = Requests(self._repository, self.watch.stop, self._clock)
        self._placer = Placer(paths, self._repository, self._ledger, self.watch, self._settings, self._clock)
        self._state = (
            None if record is None else ClusterState(self._repository, self._ledger, self.watch, self._clock, record)
        )
        self._asked_to_end = False
        self._attached = False
        self._version = -1  # of the store, when its queue was last looked at
        self._queue_due = self._capacity_due = self._clock.monotonic()
        self._alive_at = self._busy_at = self._clock.monotonic()
        self._store_well_at = self._clock.monotonic()

    def close(self) -> None:
        """Close the store. What is at work stays at work."""
        self._reader.close()
        self._repository.close()

    def end(self) -> None:
        """Ask the loop to end: attempts are stopped and their runs queued again. Safe in a signal handler."""
        self._asked_to_end = True
        self._clock.wake()

    def run(self) -> Ended:
        """Work until there has been nothing to do for `idle_s`, or until asked to end.

        Raises:
            ClusterError: the cluster is lost; another controller may go on with another cluster.
            ControllerError: the store has refused everything for too long.
            StoreRemovedError: the store is gone; what was at work for it has been ended.
        """
        while not self._asked_to_end:
            began = self._clock.monotonic()
            try:
                more = self._guarded_round()
            except StoreRemovedError:
                self.watch.release_all()
                raise
            if more:
                continue
            if not self.watch.active and self.idle_for() >= self._settings.idle_s and not self._work_waits():
                self._say_end("nothing was left to do")
                return Ended.IDLE
            pause = self._settings.poll_s if self.watch.active else self._settings.idle_poll_s
            busy = self._clock.monotonic() - began
            self._clock.wait(max(pause, min(LEISURE * busy, LEISURE_AT_MOST_S)))
        self._stop_everything()
        self._say_end("it was asked to")
        return Ended.ASKED

    def round(self) -> bool:
        """Do everything once; return whether more waits to be done at once."""
        self._look_at_cluster()
        self._attach()
        more = self.watch.tick()
        if self._changed():
            more |= self._look_again(self._requests.tick())
            more |= self._look_again(self._placer.tick() > 0)
        if self._state is not None:
            self._state.tick()
        if self.watch.active or more:
            self._busy_at = self._clock.monotonic()
        return more

    def idle_for(self) -> float:
        """Return how long there has been nothing at work."""
        return 0.0 if self.watch.active else self._clock.monotonic() - self._busy_at

    def _guarded_round(self) -> bool:
        """Do a round; trouble of the store, which may pass, is waited out."""
        try:
            more = self.round()
        except StorageError as error:
            since = self._clock.monotonic() - self._store_well_at
            log.warning("the store refuses: %s", error)
            if since > self._settings.store_s:
                raise ControllerError(f"the store has refused everything for {since:.0f} s: {error}") from error
            self._clock.wait(STORE_PAUSE_S)
            return False
        self._store_well_at = self._clock.monotonic()
        return more

    def _attach(self) -> None:
        if not self._attached:
            take_over(self.watch)
            self._attached = True

    def _look_at_cluster(self) -> None:
        now = self._clock.monotonic()
        if now < self._capacity_due:
            return
        self._capacity_due = now + CAPACITY_EVERY_S
        if not self._paths.database.exists():
            raise StoreRemovedError(f"{self._paths.database} was removed: nothing can be recorded any more")
        capacity = self._executor.capacity()
        if capacity.nodes:
            self._alive_at = now
        elif self._settings.cluster_s is not None and now - self._alive_at > self._settings.cluster_s:
            raise ClusterError(f"the cluster has had no living machine for {now - self._alive_at:.0f} s")
        if self._ledger.update(capacity):
            log.info("cluster: %d machines, %g CPUs, %d GPUs", len(capacity.nodes), capacity.cpus, capacity.gpus)
            self._version = -1

    def _changed(self) -> bool:
        """Say whether requests and queue are worth a look: something was committed, or some time has passed."""
        now = self._clock.monotonic()
        version = self._reader.data_version()
        if version == self._version and now < self._queue_due:
            return False
        self._version, self._queue_due = version, now + QUEUE_EVERY_S
        return True

    def _look_again(self, more: bool) -> bool:
        """Have requests and queue looked at in the next round too where a round left some of them."""
        if more:
            self._version = -1
        return more

    def _say_end(self, why: str) -> None:
        """Tell the store; a store that refuses must not make an end that was orderly a failure."""
        try:
            if self._state is not None:
                self._state.end(why)
        except StorageError as error:
            log.warning("the store was not told of the end: %s", error)

    def _work_waits(self) -> bool:
        return self._repository.count_waiting() > 0 or bool(self._repository.pending_requests())

    def _stop_everything(self) -> None:
        """Stop every attempt and store its end; what does not end in time is given up (`Watch`)."""
        self._attach()
        self.watch.stop_all(Reason.SHUTDOWN)
        limit = self._settings.grace_s + 2 * self._settings.abandon_s
        deadline = self._clock.monotonic() + limit
        while self.watch.active:
            try:
                more = self.watch.tick()
            except StorageError as error:
                log.warning("the store refuses: %s", error)
                more = False
            if self._clock.monotonic() > deadline:
                left = ", ".join(watched.key for watched in self.watch.active.values())
                raise ControllerError(f"after {limit:.0f} s these still have no stored end: {left}")
            if not more:
                self._clock.wait(self._settings.poll_s)
