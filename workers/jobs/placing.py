"""From the queue to the executor: who starts next, and where."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from storage.errors import StorageError
from storage.home import HomePaths
from storage.records import AttemptEnd, QueuedRun
from storage.repository import Repository
from storage.status import AttemptStatus
from workers.jobs.attempt import AttemptSpec, as_ensemble
from workers.jobs.clock import Clock
from workers.jobs.ledger import Ledger, Placement
from workers.jobs.packer import Packer
from workers.jobs.retry import Reason
from workers.jobs.settings import ControllerSettings
from workers.jobs.translate import attempt_spec, timeout_of
from workers.jobs.watch import Watch, Watched
from workers.parallel import processes

log = logging.getLogger("mambalab.controller")

LOOK_AT = 256  # queued runs that a round considers: far more than can start in it
START_AT_MOST = 16  # in a round: between them the attempts at work want to be heard
PASS_AT_MOST = 32  # runs without room that a round goes past in search of smaller ones


@dataclass(slots=True)
class Placer:
    """Starts queued runs, by priority and then by age, where the ledger finds room for them, and some of them together."""

    paths: HomePaths
    repository: Repository
    ledger: Ledger
    watch: Watch
    settings: ControllerSettings
    clock: Clock
    _unfit_since: dict[str, float] = field(default_factory=dict)
    _packer: Packer = field(init=False)

    def __post_init__(self) -> None:
        self._packer = Packer(self.ledger)

    def tick(self) -> int:
        """Start what can start now; return how many."""
        if self.ledger.full:
            return 0
        self.ledger.start_round()
        started = without_room = 0
        queue = self.repository.queued(self.clock.now(), limit=LOOK_AT)
        along: set[str] = set()  # started together with one before them
        for place, run in enumerate(queue):
            if run.id in along:
                continue
            share = self.ledger.share_of(run.cpus, run.gpus)
            if run.gpus is None:  # the controller chooses: a GPU for each process of the run
                share = replace(share, gpus=share.gpus * processes(run.spec))
            problem = self.ledger.never_fits(share)
            if problem:
                self._wait_or_fail(run, problem)
                continue
            placement = self.ledger.place(run.id, share, (-run.priority, run.num))
            if placement is None:
                without_room += 1
            else:
                behind = [other for other in queue[place + 1 :] if other.id not in along]
                companions = self._packer.companions(run, share, behind)
                along |= {other.id for other in companions}
                started += self._start([run, *companions], placement)
            if started >= START_AT_MOST or without_room >= PASS_AT_MOST or self.ledger.full:
                break
        waiting = {run.id for run in queue}
        self._unfit_since = {run_id: since for run_id, since in self._unfit_since.items() if run_id in waiting}
        return started

    def _start(self, runs: Sequence[QueuedRun], placement: Placement) -> int:
        """Start runs together in a place that the first one holds; return how many attempts began."""
        self.ledger.free(runs[0].id)  # held again below, by all that have begun
        watching = self._begin(runs)
        by_id = {run.id: run for run in runs}
        begun: list[tuple[Watched, AttemptSpec]] = []
        for watched in watching:
            try:
                spec = by_id[watched.run_id].spec
                watched.timeout_s = timeout_of(spec)
                name = (watched.run_id, watched.number)
                begun.append((watched, attempt_spec(self.paths, name, spec, placement, self.settings)))
            except Exception as error:  # noqa: BLE001 - a spec that cannot be read is its own run's trouble
                self.watch.give_up(watched, error)
        attempts = as_ensemble([attempt for _, attempt in begun])
        placement = replace(placement, pack=attempts[0].leader) if attempts else placement
        for watched, _ in begun:
            run = by_id[watched.run_id]
            self.ledger.hold(run.id, placement, (-run.priority, run.num))
        where = f" on {placement.node}" if placement.node else ""
        for (watched, _), attempt in zip(begun, attempts, strict=True):
            along = f", together with {len(attempts) - 1} others" if len(attempts) > 1 else ""
            log.info("%s: starts%s with %g CPUs, %g GPUs%s", watched.key, where, attempt.cpus, attempt.gpus, along)
            self.watch.launch(attempt, placement, watched)
        return len(watching)

    def _begin(self, runs: Sequence[QueuedRun]) -> list[Watched]:
        """Begin an attempt of each run in the store; of one that was cancelled a moment ago none begins."""
        executor = self.watch.executor
        begun: list[Watched] = []
        for run in runs:
            now = self.clock.now()
            try:
                number = self.repository.begin_attempt(run.id, executor=executor.name, now=now)
            except StorageError:
                if not begun:
                    raise
                log.warning("run %s could not begin with the others", run.id, exc_info=True)
                break  # what has begun must be watched
            if number is not None:
                begun.append(Watched(run.id, number, executor, "", now, self.clock.monotonic(), run.max_attempts))
        return begun

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
