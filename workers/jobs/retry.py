"""What an attempt's end means, and whether its run gets another one."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from storage.status import AttemptStatus
from workers.jobs.attempt import Outcome, WorkerExit
from workers.jobs.executors.base import Report


class Reason(StrEnum):
    """Why an attempt ended, as the controller names it. A worker's own codes (workers.training.errors) join these."""

    CANCELLED = "cancelled"  # a user asked
    SHUTDOWN = "shutdown"  # the controller was ended; the run goes back to the queue
    PREEMPTED = "preempted"  # somebody else asked the worker to stop; it saved its state
    TIMEOUT = "timeout"  # longer than resources.timeout_s
    SILENT = "silent"  # no sign of life for too long
    KILLED = "killed"  # SIGKILL from outside: often the system, short of memory
    CRASHED = "crashed"  # ended by another signal, or without a last word
    LOST = "lost"  # it vanished: its machine, its actor or its controller is gone
    UNSTARTED = "unstarted"  # the executor could not start it
    UNFIT = "unfit"  # no machine is large enough
    OOM = "oom"
    CONTROLLER = "controller"  # a defect of ours while the attempt was handled


# Another attempt may end otherwise. Anything else, a trial's own error above all, would only fail again
RETRYABLE = frozenset(
    {
        Reason.PREEMPTED,
        Reason.SILENT,
        Reason.KILLED,
        Reason.CRASHED,
        Reason.LOST,
        Reason.UNSTARTED,
        Reason.OOM,
    }
)
OOM_ATTEMPTS = 2  # memory may have been short because of a neighbour; a second time it is the run's own need
_OOM_WORDS = ("OOM", "OutOfMemory", "out of memory")  # Ray's, for a worker that its memory monitor ended
_BAD_ENDS = (AttemptStatus.FAILED, AttemptStatus.LOST)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended."""

    status: AttemptStatus
    reason: str
    error: str | None = None
    traceback: str | None = None
    exit_code: int | None = None
    step: int | None = None


class PastAttempt(Protocol):
    """What is asked of an earlier attempt of the same run."""

    @property
    def status(self) -> str:
        """How it ended."""
        ...

    @property
    def reason(self) -> str | None:
        """Why."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a run waits before its next attempt: longer after each bad end, up to a limit."""

    first_s: float = 1.0
    factor: float = 2.0
    limit_s: float = 300.0

    def delay(self, bad_ends: int, key: str) -> float:
        """Return the seconds after so many bad ends, 1 or more.

        Up to a quarter less for some runs, by their key: what failed together should not come back together.
        """
        full = min(self.limit_s, self.first_s * self.factor ** min(bad_ends - 1, 64))
        return full * (1 - 0.25 * (zlib.crc32(key.encode()) % 1000) / 1000)


def judge(report: Report, cause: Reason | None, *, log_tail: str = "") -> Ending:
    """Return what a final report means.

    Args:
        cause: why the controller asked the worker to stop; None where it did not.
        log_tail: last lines of the worker's log, quoted where the worker left no result.
    """
    outcome = Outcome.from_json(report.result) if report.result is not None else None
    if outcome is not None and outcome.status == "completed":
        return Ending(AttemptStatus.COMPLETED, outcome.reason, exit_code=report.exit_code, step=outcome.step)
    if cause is not None:
        return _stopped(report, outcome, cause)
    if outcome is not None and outcome.status == "stopped":
        return _preempted(report, outcome)
    if outcome is not None:
        return Ending(
            AttemptStatus.FAILED,
            outcome.reason,
            error=outcome.error,
            traceback=outcome.traceback,
            exit_code=report.exit_code,
            step=outcome.step or None,
        )
    return _without_word(report, log_tail)


def retry_after(
    ending: Ending, past: Sequence[PastAttempt], max_attempts: int, backoff: Backoff, key: str
) -> float | None:
    """Return the seconds until a run's next attempt, or None where it gets none.

    Ends that are nobody's fault (shut down, preempted with progress) use up none of `max_attempts`.

    Args:
        past: the run's earlier attempts, this one left out.
    """
    if ending.reason == Reason.SHUTDOWN:
        return 0.0
    if ending.reason == Reason.PREEMPTED and ending.status is AttemptStatus.CANCELLED:
        return 0.0
    if ending.status not in _BAD_ENDS or ending.reason not in RETRYABLE:
        return None
    bad = [attempt for attempt in past if attempt.status in _BAD_ENDS]
    if len(bad) + 1 >= max_attempts:
        return None
    if ending.reason == Reason.OOM and sum(attempt.reason == Reason.OOM for attempt in bad) + 1 >= OOM_ATTEMPTS:
        return None
    return backoff.delay(len(bad) + 1, key)


_STOPPED = {
    Reason.CANCELLED: (AttemptStatus.CANCELLED, None),
    Reason.SHUTDOWN: (AttemptStatus.CANCELLED, None),
    Reason.TIMEOUT: (AttemptStatus.FAILED, "it ran longer than resources.timeout_s"),
    Reason.SILENT: (AttemptStatus.LOST, "the worker gave no sign of life for too long"),
}


def _stopped(report: Report, outcome: Outcome | None, cause: Reason) -> Ending:
    status, error = _STOPPED[cause]
    step = outcome.step if outcome is not None else None
    if outcome is not None and outcome.status == "failed" and error is None:
        error = outcome.error
    traceback = outcome.traceback if outcome is not None else None
    return Ending(status, cause, error, traceback, report.exit_code, step)


def _preempted(report: Report, outcome: Outcome) -> Ending:
    """A worker that was asked to stop, not by us. Without progress it counts as a bad end, lest it go on for ever."""
    progress = outcome.step > outcome.resumed_from
    return Ending(
        AttemptStatus.CANCELLED if progress else AttemptStatus.LOST,
        Reason.PREEMPTED,
        error=None if progress else "the worker was asked to stop from outside before its first step",
        exit_code=report.exit_code,
        step=outcome.step,
    )


def _without_word(report: Report, log_tail: str) -> Ending:
    said = f" Its log ends with:\n{log_tail}" if log_tail else ""
    code = report.exit_code
    if report.state == "gone" or code is None or code == WorkerExit.ORPHANED:
        detail = report.detail or "the worker vanished without a result"
        reason = Reason.OOM if any(word in detail for word in _OOM_WORDS) else Reason.LOST
        return Ending(AttemptStatus.LOST, reason, error=detail, exit_code=code, traceback=said.strip() or None)
    if code == -signal.SIGKILL:
        text = "the worker was killed (SIGKILL): by somebody, or by the system because memory ran out"
        return Ending(AttemptStatus.LOST, Reason.KILLED, error=text, exit_code=code, traceback=said.strip() or None)
    text = f"the worker {_how(code)} and left no result"
    return Ending(AttemptStatus.LOST, Reason.CRASHED, error=text, exit_code=code, traceback=said.strip() or None)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
