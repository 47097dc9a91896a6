"""What a report means, and how long a run waits before its next attempt."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.status import AttemptStatus
from workers.jobs.attempt import WorkerExit
from workers.jobs.executors.base import Report
from workers.jobs.retry import Backoff, Ending, Reason, judge, retry_after

UNHURRIED = settings(deadline=None, max_examples=50)  # how fast this machine is decides nothing


@dataclass
class Past:
    status: str
    reason: str | None


COMPLETED = {"status": "completed", "reason": "steps", "step": 10}
STOPPED = {"status": "stopped", "reason": "stopped", "step": 7, "resumed_from": 5}
STUCK = {"status": "stopped", "reason": "stopped", "step": 5, "resumed_from": 5}
FAILED = {"status": "failed", "reason": "diverged", "step": 4, "error": "loss is nan", "traceback": "Traceback"}


@pytest.mark.parametrize(
    ("report", "cause", "status", "reason"),
    [
        (Report("exited", 0, result=COMPLETED), None, "completed", "steps"),
        (Report("exited", 0, result=COMPLETED), Reason.CANCELLED, "completed", "steps"),
        (Report("exited", 1, result=FAILED), None, "failed", "diverged"),
        (Report("exited", 1, result=FAILED), Reason.CANCELLED, "cancelled", "cancelled"),
        (Report("exited", 3, result=STOPPED), Reason.CANCELLED, "cancelled", "cancelled"),
        (Report("exited", 3, result=STOPPED), Reason.SHUTDOWN, "cancelled", "shutdown"),
        (Report("exited", 3, result=STOPPED), Reason.TIMEOUT, "failed", "timeout"),
        (Report("exited", -9), Reason.SILENT, "lost", "silent"),
        (Report("exited", 3, result=STOPPED), None, "cancelled", "preempted"),
        (Report("exited", 3, result=STUCK), None, "lost", "preempted"),
        (Report("exited", -signal.SIGKILL), None, "lost", "killed"),
        (Report("exited", -signal.SIGSEGV), None, "lost", "crashed"),
        (Report("exited", 0), None, "lost", "crashed"),
        (Report("exited", int(WorkerExit.ORPHANED)), None, "lost", "lost"),
        (Report("exited", None), None, "lost", "lost"),
        (Report("gone"), None, "lost", "lost"),
        (Report("gone", detail="OutOfMemoryError: the node was running low"), None, "lost", "oom"),
        (Report("gone", detail="Worker killed due to the node running OOM"), None, "lost", "oom"),
    ],
)
def test_an_end_is_judged(report: Report, cause: Reason | None, status: str, reason: str) -> None:
    ending = judge(report, cause)
    assert (ending.status.value, str(ending.reason)) == (status, reason)


def test_the_workers_own_words_are_kept() -> None:
    ending = judge(Report("exited", 1, result=FAILED), None)
    assert (ending.error, ending.traceback, ending.step) == ("loss is nan", "Traceback", 4)


def test_a_worker_that_says_nothing_is_quoted_from_its_log() -> None:
    ending = judge(Report("exited", 1), None, log_tail="ModuleNotFoundError: No module named 'torch'")
    assert ending.error == "the worker ended with exit code 1 and left no result"
    assert "No module named 'torch'" in (ending.traceback or "")
    assert "SIGSEGV" in (judge(Report("exited", -11), None).error or "")


LOST = Ending(AttemptStatus.LOST, Reason.LOST)


def test_attempts_that_ended_badly_count_and_others_do_not() -> None:
    past = [Past("cancelled", "shutdown"), Past("lost", "killed"), Past("cancelled", "preempted")]
    assert retry_after(LOST, past, 3, Backoff(), "run") is not None
    assert retry_after(LOST, [*past, Past("failed", "oom")], 3, Backoff(), "run") is None


def test_a_run_of_one_attempt_is_not_retried() -> None:
    assert retry_after(LOST, [], 1, Backoff(), "run") is None


@UNHURRIED
@given(st.integers(1, 2000), st.text(max_size=12))
def test_the_pause_grows_to_its_limit_and_differs_a_little_by_run(bad_ends: int, key: str) -> None:
    backoff = Backoff(first_s=1.0, factor=2.0, limit_s=300.0)
    full = min(300.0, 2.0 ** (bad_ends - 1)) if bad_ends < 64 else 300.0
    assert 0.75 * full <= backoff.delay(bad_ends, key) <= full
