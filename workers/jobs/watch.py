"""The attempts at work: what they report is stored, and how they end is decided. Used by the controller's one thread."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.errors import Conflict, NotFound, StorageError
from storage.home import HomePaths
from storage.queries import Reader
from storage.records import AttemptEnd, RecordBatch
from storage.repository import Repository
from storage.status import AttemptStatus
from workers.jobs.attempt import AttemptSpec
from workers.jobs.clock import Clock
from workers.jobs.executors.base import Executor, Report
from workers.jobs.files import tail
from workers.jobs.ledger import Ledger, Placement
from workers.jobs.retry import Ending, Reason, judge, retry_after
from workers.jobs.settings import ControllerSettings
from workers.jobs.translate import pack_handle, to_batch

log = logging.getLogger("mambalab.controller")


@dataclass(slots=True)
class Watched:
    """One attempt at work.

    Attributes:
        handle: the executor's name for it.
        cursor: everything in its spool up to here is stored.
        heard_at: when it last gave a sign of life, on this process's monotonic clock: workers' clocks may differ.
        spoke: whether it ever did.
        cause, stop_by: why it was asked to stop, and when that must have had its effect.
        trouble: what went wrong when it was last asked for news; empty where nothing did.
        ending: how it ended, once that is decided and until it is stored.
    """

    run_id: str
    number: int
    executor: Executor
    handle: str
    started_at: float
    heard_at: float
    max_attempts: int
    timeout_s: float | None = None
    cursor: int = 0
    spoke: bool = False
    cause: Reason | None = None
    stop_by: float | None = None
    trouble: str = ""
    ending: Ending | None = None

    @property
    def key(self) -> str:
        """The attempt's name in messages."""
        return f"run {self.run_id}, attempt {self.number}"


@dataclass(slots=True)
class Watch:
    """All attempts at work, by run.

    A defect in the handling of one attempt ends that attempt, with its traceback stored, and no other.
    """

    paths: HomePaths
    repository: Repository
    reader: Reader
    executor: Executor
    ledger: Ledger
    settings: ControllerSettings
    clock: Clock
    active: dict[str, Watched] = field(default_factory=dict)

    def launch(self, attempt: AttemptSpec, placement: Placement, watched: Watched) -> None:
        """Start an attempt that has begun in the store, and watch it. Where it cannot be started, it ends."""
        self.active[watched.run_id] = watched
        try:
            watched.handle = self.executor.start(attempt)
        except Exception as error:  # noqa: BLE001 - whatever an executor raises is this attempt's end, not the controller's
            log.warning("%s could not be started: %s", watched.key, error)
            watched.ending = Ending(
                AttemptStatus.LOST, Reason.UNSTARTED, f"it could not be started: {error}", _traceback(error)
            )
            self._finish(watched)
            return
        self.repository.set_handle(watched.run_id, watched.number, pack_handle(watched.handle, placement))

    def give_up(self, watched: Watched, error: Exception) -> None:
        """End an attempt that could not be handled: the error is its end, and what is left of its worker ends."""
        log.error("%s: a defect while it was handled", watched.key, exc_info=error)
        text = f"a defect while the attempt was handled: {type(error).__name__}: {error}"
        watched.ending = Ending(AttemptStatus.FAILED, Reason.CONTROLLER, text, _traceback(error))
        self._finish(watched)

    def tick(self) -> bool:
        """Ask for news once, store it, and end what has ended. Return whether more news waits."""
        news: list[tuple[Watched, Report]] = []
        for watched in list(self.active.values()):
            if watched.ending is not None:
                self._finish(watched)  # the store refused it the last time
                continue
            report = self._poll(watched)
            if report is not None:
                news.append((watched, report))
        self._record([(watched, report) for watched, report in news if report.spool])
        for watched, report in news:
            if self.active.get(watched.run_id) is watched and watched.ending is None:
                self._follow_up(watched, report)
        return any(report.spool for _, report in news)

    def stop(self, run_id: str, cause: Reason, grace_s: float | None = None) -> None:
        """Ask a run's attempt to stop; the first cause counts. One that is not at work is none to stop."""
        watched = self.active.get(run_id)
        if watched is None or watched.cause is not None:
            return
        grace = self.settings.grace_s if grace_s is None else grace_s
        watched.cause = cause
        watched.stop_by = self.clock.monotonic() + grace + self.settings.abandon_s
        try:
            watched.executor.stop(watched.handle, grace)
        except Exception as error:  # noqa: BLE001 - it is abandoned after the grace; until then its trouble is kept
            watched.trouble = _traceback(error)
            log.warning("%s could not be asked to stop: %s", watched.key, error)

    def stop_all(self, cause: Reason) -> None:
        """Ask every attempt to stop."""
        for run_id in list(self.active):
            self.stop(run_id, cause)

    def release_all(self) -> None:
        """End what is left of every worker, without a word to the store."""
        for watched in list(self.active.values()):
            self._release(watched)
            self._forget(watched)

    def _poll(self, watched: Watched) -> Report | None:
        try:
            report = watched.executor.poll(watched.handle, watched.cursor)
        except Exception as error:
            if not watched.trouble:
                log.warning("%s gives no news", watched.key, exc_info=error)
            watched.trouble = _traceback(error)
            return Report("running", cursor=watched.cursor)
        watched.trouble = ""
        if report.spool and report.cursor <= watched.cursor:
            return None  # an answer to an older question: it is stored already
        return report

    def _record(self, news: Sequence[tuple[Watched, Report]]) -> None:
        """Store everything in one transaction; where that fails, one by one, to find whose fault it is."""
        pieces: list[tuple[Watched, RecordBatch]] = []
        for watched, report in news:
            watched.heard_at, watched.spoke = self.clock.monotonic(), True
            try:
                pieces.append((watched, to_batch(report)))
            except Exception as error:  # noqa: BLE001 - see the class
                self.give_up(watched, error)
        if not pieces:
            return
        try:
            stored = self.repository.record_many([(one.run_id, one.number, batch) for one, batch in pieces])
        except Exception as error:
            if of_the_store(error):
                raise  # not an attempt's trouble: the same bytes come again
            if len(pieces) == 1:
                self.give_up(pieces[0][0], error)
                return
            for watched, report in news:
                if watched.ending is None:
                    self._record([(watched, report)])
            return
        for (watched, batch), taken in zip(pieces, stored, strict=True):
            if taken:
                watched.cursor = batch.cursor
            else:
                self._drop(watched)

    def _follow_up(self, watched: Watched, report: Report) -> None:
        if report.final:
            said = tail(self.paths.attempt(watched.run_id, watched.number).log)
            try:
                watched.ending = judge(report, watched.cause, log_tail=said)
            except Exception as error:  # noqa: BLE001 - see the class
                self.give_up(watched, error)
                return
            self._finish(watched)
        elif report.state == "running":
            self._enforce_limits(watched)

    def _enforce_limits(self, watched: Watched) -> None:
        now = self.clock.monotonic()
        if watched.stop_by is not None:
            if now > watched.stop_by:
                detail = "the worker did not end after it was asked to, and nothing can be learnt about it"
                watched.ending = judge(Report("gone", detail=detail), watched.cause)
                self._finish(watched)
            return
        if watched.timeout_s is not None and self.clock.now() - watched.started_at > watched.timeout_s:
            self.stop(watched.run_id, Reason.TIMEOUT)
        elif now - watched.heard_at > (self.settings.silence_s if watched.spoke else self.settings.start_s):
            self.stop(watched.run_id, Reason.SILENT, min(self.settings.grace_s, self.settings.silent_grace_s))

    def _finish(self, watched: Watched) -> None:
        """Free what an attempt holds, then store its end: what holds nothing needs no looking after by anyone."""
        ending = watched.ending
        assert ending is not None
        past = [one for one in self.reader.attempts(watched.run_id) if one.number < watched.number]
        delay = retry_after(ending, past, watched.max_attempts, self.settings.backoff, watched.run_id)
        self._release(watched)
        now = self.clock.now()
        end = AttemptEnd(
            ending.status,
            now,
            reason=str(ending.reason),
            error=ending.error,
            traceback=ending.traceback or watched.trouble or None,
            exit_code=ending.exit_code,
            step=ending.step,
            retry_at=None if delay is None else now + delay,
        )
        try:
            self.repository.finish_attempt(watched.run_id, watched.number, end)
        except (NotFound, Conflict):
            log.exception("%s: its end cannot be stored, as the store does not know it", watched.key)
        self._forget(watched)
        again = "" if delay is None else f"; again in {delay:.1f} s"
        log.info("%s: %s (%s)%s", watched.key, ending.status.value, ending.reason, again)

    def _drop(self, watched: Watched) -> None:
        """Let go of an attempt that has been superseded: the store takes nothing from it any more."""
        log.warning("%s: a newer attempt exists; it is stopped", watched.key)
        self._release(watched)
        self._forget(watched)

    def _release(self, watched: Watched) -> None:
        if not watched.handle:
            return
        try:
            watched.executor.release(watched.handle)
        except Exception:  # the attempt has ended, whatever its executor makes of it
            log.exception("%s: what it held could not be released", watched.key)

    def _forget(self, watched: Watched) -> None:
        self.active.pop(watched.run_id, None)
        self.ledger.free(watched.run_id)


def of_the_store(error: Exception) -> bool:
    """Say whether an error is the store's own trouble (locked, full), which may pass, not that of one row."""
    return isinstance(error, StorageError) and not isinstance(error, NotFound | Conflict)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
