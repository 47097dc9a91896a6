"""From the queue to the executor: who starts next, and where."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from storage.home import HomePaths
from storage.records import AttemptEnd, QueuedRun
from storage.repository import Repository
from storage.status import AttemptStatus
from workers.jobs.clock import Clock
from workers.jobs.ledger import Ledger, Placement
from workers.jobs.retry import Reason
from workers.jobs.settings import ControllerSettings
from workers.jobs.translate import attempt_spec, timeout_of
from workers.jobs.watch import Watch, Watched

log = logging.getLogger("mambalab.controller")

LOOK_AT = 256  # queued runs that a round considers: far more than can start in it
START_AT_MOST = 16  # in a round: between them the attempts at work want to be heard
PASS_AT_MOST = 32  # runs without room that a round goes past in search of smaller ones


@dataclass(slots=True)
class Placer:
    """Starts queued runs, by priority and then by age, where the ledger finds room for them."""

    paths: HomePaths
    repository: Repository
    ledger: Ledger
    watch: Watch
    settings: ControllerSettings
    clock: Clock
    _unfit_since: dict[str, float] = field(default_factory=dict)

    def tick(self) -> int:
        """Start what can start now; return how many."""
        if self.ledger.full:
            return 0
        self.ledger.start_round()
        started = without_room = 0
        queue = self.repository.queued(self.clock.now(), limit=LOOK_AT)
        for run in queue:
            share = self.ledger.share_of(run.cpus, run.gpus)
            problem = self.ledger.never_fits(share)
            if problem:
                self._wait_or_fail(run, problem)
                continue
            placement = self.ledger.place(run.id, share, (-run.priority, run.num))
            if placement is None:
                without_room += 1
            else:
                started += self._start(run, placement)
            if started >= START_AT_MOST or without_room >= PASS_AT_MOST or self.ledger.full:
                break
        waiting = {run.id for run in queue}
        self._unfit_since = {run_id: since for run_id, since in self._unfit_since.items() if run_id in waiting}
        return started

    def _start(self, run: QueuedRun, placement: Placement) -> bool:
        now = self.clock.now()
        try:
            number = self.repository.begin_attempt(run.id, executor=self.watch.executor.name, now=now)
        except BaseException:
            self.ledger.free(run.id)
            raise
        if number is None:
            self.ledger.free(run.id)  # cancelled a moment ago
            return False
        watched = Watched(run.id, number, self.watch.executor, "", now, self.clock.monotonic(), run.max_attempts)
        try:
            spec = run.spec
            watched.timeout_s = timeout_of(spec)
            attempt = attempt_spec(self.paths, (run.id, number), spec, placement, self.settings)
        except Exception as error:  # noqa: BLE001 - a spec that cannot be read is its own run's trouble
            self.watch.give_up(watched, error)
            return True
        where = f" on {placement.node}" if placement.node else ""
        log.info("%s: starts%s with %g CPUs, %g GPUs", watched.key, where, attempt.cpus, attempt.gpus)
        self.watch.launch(attempt, placement, watched)
        return True

    def _wait_or_fail(self, run: QueuedRun, problem: str) -> None:
        """Fail a run that no machine can hold, once machines had their time to join."""
        since = self._unfit_since.setdefault(run.id, self.clock.monotonic())
        if self.clock.monotonic() - since < self.settings.unfit_s:
            return
        number = self.repository.begin_attempt(run.id, executor=self.watch.executor.name, now=self.clock.now())
        if number is None:
            return
        log.warning("run %s can never start: %s", run.id, problem)
        end = AttemptEnd(
            AttemptStatus.FAILED, self.clock.now(), reason=Reason.UNFIT, error=f"the run can never start: {problem}"
        )
        self.repository.finish_attempt(run.id, number, end)
