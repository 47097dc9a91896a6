"""What users ask through the store, and what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from storage.status import RequestKind

if TYPE_CHECKING:
    from tests.unit.workers.jobs.conftest import Lab


def test_a_queued_run_is_cancelled_at_once(lab: Lab) -> None:
    (*_, waiting) = lab.submit(3)
    controller = lab.controller()
    lab.rounds(controller)
    lab.ask(RequestKind.CANCEL, waiting)
    lab.rounds(controller)
    assert lab.run(waiting).status == "cancelled"
    assert lab.outcome(waiting) == ("done", "cancelled before it started")
    assert waiting not in lab.executor.started


def test_a_running_run_is_stopped_then_cancelled_and_the_request_settled(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.executor.obedient = False
    controller = lab.controller()
    lab.rounds(controller)
    lab.ask(RequestKind.CANCEL, run_id)
    lab.rounds(controller, 3)
    attempt = lab.executor.of(run_id)
    assert attempt.stops == [lab.settings.grace_s]  # asked once, however often the request is seen
    assert (lab.run(run_id).status, lab.outcome(run_id)[0]) == ("running", "pending")
    attempt.ends("stopped", "stopped", 5, 3)
    lab.rounds(controller, 2)
    assert lab.run(run_id).status == "cancelled"
    assert lab.outcome(run_id) == ("done", "cancelled")
    assert lab.attempts(run_id) == [("cancelled", "cancelled")]


def test_a_cancellation_outlives_the_controller(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.executor.obedient = False
    first = lab.controller()
    lab.rounds(first)
    lab.ask(RequestKind.CANCEL, run_id)
    lab.rounds(first)
    del first  # it dies
    lab.executor.obedient = True
    second = lab.controller()
    lab.rounds(second, 3)
    assert lab.run(run_id).status == "cancelled"


def test_a_run_that_completes_first_stays_completed(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.executor.obedient = False
    controller = lab.controller()
    lab.rounds(controller)
    lab.ask(RequestKind.CANCEL, run_id)
    lab.rounds(controller)
    lab.executor.of(run_id).complete()
    lab.rounds(controller, 2)
    assert lab.run(run_id).status == "completed"
    assert lab.outcome(run_id) == ("refused", "the run is completed: only a queued or running one can be cancelled")


def test_a_cancelled_worker_that_is_killed_is_not_retried(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.executor.obedient = False
    controller = lab.controller()
    lab.rounds(controller)
    lab.ask(RequestKind.CANCEL, run_id)
    lab.rounds(controller)
    lab.executor.of(run_id).dies(-9)
    lab.rounds(controller)
    assert lab.run(run_id).status == "cancelled"


def test_failed_and_cancelled_runs_can_be_retried(lab: Lab) -> None:
    (failed, cancelled) = lab.submit(2, max_attempts=1)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(failed).fail("error")
    lab.ask(RequestKind.CANCEL, cancelled)
    lab.rounds(controller, 2)
    for run_id in (failed, cancelled):
        lab.ask(RequestKind.RETRY, run_id)
    lab.rounds(controller, 2)
    for run_id in (failed, cancelled):
        assert lab.outcome(run_id) == ("done", "queued again")
        lab.executor.of(run_id, 2).complete()
    lab.rounds(controller)
    assert set(lab.statuses().values()) == {"completed"}


def test_a_retried_run_gets_one_more_attempt_not_one_for_each_it_had(lab: Lab) -> None:
    (run_id,) = lab.submit(max_attempts=1)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(run_id, 1).dies()
    lab.rounds(controller)
    lab.ask(RequestKind.RETRY, run_id)
    lab.rounds(controller)
    lab.executor.of(run_id, 2).dies()
    lab.rounds(controller, 2, wait=100.0)
    assert lab.run(run_id).status == "failed"
    assert lab.attempts(run_id) == [("lost", "killed")] * 2


def test_priority_decides_who_starts_next(lab: Lab) -> None:
    ids = lab.submit(4)
    controller = lab.controller()
    lab.rounds(controller)
    lab.ask(RequestKind.PRIORITY, ids[3], priority=1)
    lab.rounds(controller)
    assert lab.outcome(ids[3]) == ("done", "priority 1")
    lab.executor.of(ids[0]).complete()
    lab.rounds(controller)
    assert lab.executor.started == [ids[0], ids[1], ids[3]]


@pytest.mark.parametrize(
    ("kind", "payload", "outcome"),
    [
        (RequestKind.RETRY, {}, "the run is running: only a failed or cancelled one can be retried"),
        (RequestKind.PRIORITY, {"priority": 3}, "the run is running: only a queued one has a priority"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    lab: Lab, kind: RequestKind, payload: dict[str, object], outcome: str
) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    lab.ask(kind, run_id, **payload)
    lab.rounds(controller)
    assert lab.outcome(run_id) == ("refused", outcome)


def test_a_request_of_an_unknown_kind_is_refused_and_the_next_one_done(lab: Lab) -> None:
    (first, second) = lab.submit(2)
    lab.ask(RequestKind.CANCEL, first)
    lab.sql("UPDATE request SET kind = 'pause'")  # as a newer program would write it
    lab.ask(RequestKind.CANCEL, second)
    lab.rounds(lab.controller())
    assert lab.outcome(first)[0] == "refused"
    assert "unknown kind 'pause'" in (lab.outcome(first)[1] or "")
    assert lab.outcome(second)[0] == "done"


def test_a_priority_that_is_no_number_is_refused(lab: Lab) -> None:
    (*_, run_id) = lab.submit(3)
    lab.ask(RequestKind.PRIORITY, run_id, priority=1)
    lab.sql("""UPDATE request SET payload = '{"priority": "high"}'""")  # written past the program
    lab.rounds(lab.controller())
    assert lab.outcome(run_id) == ("refused", "expected a whole number as priority, got 'high'")


def test_a_flood_of_requests_does_not_keep_the_attempts_from_being_heard(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.jobs.requests.SETTLE_AT_MOST", 3)
    (running, *waiting) = lab.submit(9, cpus=2.0)
    controller = lab.controller()
    lab.rounds(controller)
    for run_id in waiting:
        lab.ask(RequestKind.CANCEL, run_id)
    lab.executor.of(running).log(1, train_loss=1.0)
    lab.rounds(controller)
    assert lab.series(running, "train/loss") == {1: 1.0}
    assert sorted(lab.statuses().values()) == ["cancelled"] * 3 + ["queued"] * 5 + ["running"]
    lab.rounds(controller, 2, wait=0.0)
    assert sorted(lab.statuses().values()) == ["cancelled"] * 8 + ["running"]
