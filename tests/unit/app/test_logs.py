"""`mambalab logs`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from storage.records import AttemptEnd
from storage.repository import Repository
from storage.status import AttemptStatus

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab


def write_log(lab: Lab, run_id: str, text: str, attempt: int = 1) -> None:
    log = lab.paths.attempt(run_id, attempt).log
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(text.encode())


def test_the_latest_attempt_is_printed_as_it_is(call: Call, lab: Lab) -> None:
    write_log(lab, lab.runs[0], "step 1\nstép 2\n")
    done = call("logs", lab.runs[0])
    assert (done.code, done.stdout, done.stderr) == (0, "step 1\nstép 2\n", "")


def test_an_empty_log_is_said(call: Call, lab: Lab) -> None:
    write_log(lab, lab.runs[0], "")
    done = call("logs", lab.runs[0])
    assert (done.code, done.stdout) == (0, "")
    assert "has printed nothing" in done.stderr


def test_an_attempt_may_be_named(call: Call, lab: Lab) -> None:
    write_log(lab, lab.runs[0], "first\n")
    assert call("logs", lab.runs[0], "--attempt", "1").stdout == "first\n"
    missing = call("logs", lab.runs[0], "--attempt", "3")
    assert missing.code == 3
    assert "has 1 attempt, not 3" in missing.stderr


def test_a_run_that_has_not_started_says_so(call: Call, lab: Lab) -> None:
    done = call("logs", lab.runs[3])
    assert done.code == 0
    assert "is queued and has not started" in done.stderr


def test_an_attempt_without_a_log_says_why(call: Call, lab: Lab) -> None:
    with Repository(lab.paths) as store:
        assert store.begin_attempt(lab.runs[3], executor="ray", now=100.0) == 1
    assert "has written no log: " in call("logs", lab.runs[3]).stderr
    done = call("logs", lab.runs[0])
    assert (done.code, done.stdout) == (0, "")
    assert "ran inline: what it printed went to the terminal of the command that ran it" in done.stderr


def test_an_ablation_is_refused_with_its_runs(call: Call, lab: Lab) -> None:
    done = call("logs", "demo")
    assert done.code == 2
    assert lab.runs[0] in done.stderr


def test_following_ends_with_the_run(call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written until the run ends is printed, and then the command ends."""
    write_log(lab, lab.single, "begun\n")
    waited = threading.Event()

    def end_the_run(_: float) -> None:
        assert not waited.is_set(), "went on following a run that has ended"
        waited.set()
        write_log(lab, lab.single, "ended\n")
        with Repository(lab.paths) as store:
            store.finish_attempt(lab.single, 1, AttemptEnd(AttemptStatus.COMPLETED, 120.0))

    monkeypatch.setattr("app.commands.logs.sleep", end_the_run)
    monkeypatch.setattr("workers.jobs.submission.controller_alive", lambda _: True)
    done = call("logs", "-f", lab.single)
    assert done.code == 0
    assert done.stdout == "begun\nended\n"
    assert f"{lab.single} completed" in done.stderr


def test_following_goes_on_to_the_next_attempt(call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(lab, lab.single, "first\n")
    rounds = iter(range(10))

    def act(_: float) -> None:
        with Repository(lab.paths) as store:
            if next(rounds) == 0:
                write_log(lab, lab.single, "killed\n")
                store.finish_attempt(lab.single, 1, AttemptEnd(AttemptStatus.LOST, 120.0, retry_at=0.0))
                assert store.begin_attempt(lab.single, executor="inline", now=121.0) == 2
                write_log(lab, lab.single, "second\n", attempt=2)
            else:
                store.finish_attempt(lab.single, 2, AttemptEnd(AttemptStatus.FAILED, 122.0, error="no luck"))

    monkeypatch.setattr("app.commands.logs.sleep", act)
    monkeypatch.setattr("workers.jobs.submission.controller_alive", lambda _: True)
    done = call("logs", "-f", lab.single)
    assert done.stdout == "first\nkilled\nsecond\n"
    assert "attempt 2" in done.stderr
    assert "failed: no luck" in done.stderr


def test_following_without_a_controller_does_not_wait_for_ever(call: Call, lab: Lab) -> None:
    write_log(lab, lab.single, "begun\n")
    done = call("logs", "-f", lab.single)
    assert done.code == 1
    assert done.stdout == "begun\n"
    assert "the controller of" in done.stderr
