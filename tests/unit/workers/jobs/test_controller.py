"""The controller's loop against an executor and a clock that obey the test."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest

from storage.errors import StoreLocked
from storage.queries import Reader
from storage.records import RecordBatch
from workers.jobs.controller import Ended
from workers.jobs.errors import ClusterError, ControllerError, StoreRemovedError
from workers.jobs.executors.base import Node

if TYPE_CHECKING:
    from tests.unit.workers.jobs.conftest import FakeAttempt, Lab


def completes(attempt: FakeAttempt) -> None:
    attempt.log(1, train_loss=0.5)
    attempt.complete()


def test_the_queue_is_run_to_its_end_and_the_controller_idles_out(lab: Lab) -> None:
    ids = lab.submit(5)
    lab.executor.on_start = completes
    began = lab.clock.monotonic()
    assert lab.controller().run() is Ended.IDLE
    assert lab.statuses() == dict.fromkeys(ids, "completed")
    assert all(lab.series(run_id, "train/loss") == {1: 0.5} for run_id in ids)
    assert all(lab.executor.of(run_id).released for run_id in ids)
    assert lab.clock.monotonic() - began >= lab.settings.idle_s


def test_runs_start_by_priority_then_age_and_never_more_than_fit(lab: Lab) -> None:
    old = lab.submit(3)
    urgent = lab.submit(1, priority=5)
    controller = lab.controller()
    lab.rounds(controller)
    assert lab.executor.started == [urgent[0], old[0]]  # two CPUs
    lab.executor.of(urgent[0]).complete()
    lab.rounds(controller)
    assert lab.executor.started == [urgent[0], old[0], old[1]]


def test_metrics_are_stored_as_they_come_and_once(lab: Lab) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    attempt = lab.executor.of(run_id)
    attempt.log(1, train_loss=0.5)
    lab.rounds(controller, 2)
    assert lab.series(run_id, "train/loss") == {1: 0.5}
    attempt.log(2, train_loss=math.nan)
    attempt.note("hardware", device="none")
    attempt.complete(2)
    lab.rounds(controller, 2)
    series = lab.series(run_id, "train/loss")
    assert list(series) == [1, 2]
    assert math.isnan(series[2])
    assert lab.run(run_id).status == "completed"
    with Reader(lab.paths) as reader:
        assert reader.run_facts(run_id)["hardware"] == {"device": "none"}


@pytest.mark.parametrize("code", [-9, -11, 1, None], ids=str)
def test_a_worker_that_dies_is_retried_after_a_growing_pause(lab: Lab, code: int | None) -> None:
    (run_id,) = lab.submit(max_attempts=3)
    controller = lab.controller()
    for number, pause in ((1, 10.0), (2, 20.0)):
        lab.rounds(controller)
        lab.executor.of(run_id, number).dies(code)
        lab.rounds(controller)
        assert lab.run(run_id).status == "queued"
        lab.clock.wait(0.7 * pause - 1.0)  # the pause is up to a quarter shorter, by the run's id
        lab.rounds(controller)
        assert lab.run(run_id).status == "queued"
        lab.clock.wait(0.3 * pause)
        lab.rounds(controller)
        assert lab.run(run_id).status == "running"
    lab.executor.of(run_id, 3).dies(code)
    lab.rounds(controller)
    run = lab.run(run_id)
    assert (run.status, run.attempt) == ("failed", 3)
    reason = {-9: "killed", None: "lost"}.get(code, "crashed")
    assert lab.attempts(run_id) == [("lost", reason)] * 3


@pytest.mark.parametrize("reason", ["error", "spec", "checkpoint", "diverged", "device", "training"])
def test_what_would_only_fail_again_is_not_retried(lab: Lab, reason: str) -> None:
    (run_id, other) = lab.submit(2)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(run_id).fail(reason, "ZeroDivisionError: one over nothing", "Traceback: line 3")
    lab.rounds(controller)
    run = lab.run(run_id)
    assert (run.status, run.reason, run.error) == ("failed", reason, "ZeroDivisionError: one over nothing")
    with Reader(lab.paths) as reader:
        assert reader.attempts(run_id)[0].traceback == "Traceback: line 3"
    assert lab.run(other).status == "running"


def test_out_of_memory_gets_one_more_try(lab: Lab) -> None:
    (run_id,) = lab.submit(max_attempts=9)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(run_id, 1).fail("oom")
    lab.rounds(controller, 2, wait=10.0)
    lab.executor.of(run_id, 2).fail("oom")
    lab.rounds(controller, 3, wait=100.0)
    assert lab.run(run_id).status == "failed"
    assert lab.attempts(run_id) == [("failed", "oom")] * 2


def test_a_vanished_worker_is_lost_and_its_executor_quoted(lab: Lab) -> None:
    (run_id,) = lab.submit(max_attempts=1)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(run_id).vanishes("ActorDiedError: the node is gone")
    lab.rounds(controller)
    assert lab.run(run_id).error == "ActorDiedError: the node is gone"
    assert lab.attempts(run_id) == [("lost", "lost")]


def test_an_attempt_that_cannot_be_started_is_retried_and_the_reason_kept(lab: Lab) -> None:
    (run_id, other) = lab.submit(2, max_attempts=2)
    lab.executor.refuses = {run_id}
    controller = lab.controller()
    lab.rounds(controller, 3, wait=20.0)
    run = lab.run(run_id)
    assert (run.status, run.reason) == ("failed", "unstarted")
    assert "no process can be started" in (run.error or "")
    assert lab.attempts(run_id) == [("lost", "unstarted")] * 2
    assert lab.run(other).status == "running"


def test_preemption_with_progress_costs_no_attempt_and_without_it_does(lab: Lab) -> None:
    (run_id,) = lab.submit(max_attempts=1)
    controller = lab.controller()
    for number in (1, 2, 3):
        lab.rounds(controller)
        lab.executor.of(run_id, number).ends("stopped", "stopped", 5 * number, 3, resumed_from=5 * number - 5)
        lab.rounds(controller)
    lab.rounds(controller)
    lab.executor.of(run_id, 4).ends("stopped", "stopped", 15, 3, resumed_from=15)
    lab.rounds(controller)
    assert lab.run(run_id).status == "failed"
    assert lab.attempts(run_id) == [("cancelled", "preempted")] * 3 + [("lost", "preempted")]


def test_a_run_longer_than_its_timeout_is_stopped_and_fails(lab: Lab) -> None:
    (run_id,) = lab.submit(spec={"resources": {"timeout_s": 100.0}})
    controller = lab.controller()
    lab.rounds(controller)
    attempt = lab.executor.of(run_id)
    for step in range(1, 5):
        attempt.log(step, train_loss=1.0)
        lab.rounds(controller, wait=24.0)
    assert attempt.stops == []
    lab.rounds(controller, 2, wait=10.0)
    assert attempt.stops == [lab.settings.grace_s]
    run = lab.run(run_id)
    assert (run.status, run.reason, run.error) == ("failed", "timeout", "it ran longer than resources.timeout_s")


def test_a_silent_worker_is_stopped_and_counts_as_lost(lab: Lab) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    attempt = lab.executor.of(run_id)
    lab.rounds(controller, wait=lab.settings.start_s - 2)
    attempt.log(1, train_loss=1.0)  # the first sign of life, just in time
    lab.rounds(controller, wait=1.0)
    lab.rounds(controller, wait=lab.settings.silence_s - 2)
    assert attempt.stops == []
    lab.rounds(controller, 3, wait=2.0)
    assert attempt.stops == [lab.settings.silent_grace_s]
    assert lab.attempts(run_id) == [("lost", "silent")]
    assert lab.run(run_id).status == "queued"


def test_a_worker_that_never_speaks_is_lost_after_the_time_to_start(lab: Lab) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    lab.rounds(controller, 2, wait=lab.settings.start_s + 1)
    assert lab.attempts(run_id) == [("lost", "silent")]


def test_what_does_not_end_after_its_grace_is_given_up(lab: Lab) -> None:
    (run_id,) = lab.submit(spec={"resources": {"timeout_s": 1.0}})
    lab.executor.obedient = False
    controller = lab.controller()
    lab.rounds(controller, 2, wait=2.0)
    attempt = lab.executor.of(run_id)
    assert len(attempt.stops) == 1
    for _ in range(7):
        attempt.log(1, train_loss=1.0)
        lab.rounds(controller, wait=10.0)
    assert attempt.released
    assert lab.attempts(run_id) == [("failed", "timeout")]


def test_an_executor_in_trouble_is_silence_and_its_error_is_kept(lab: Lab) -> None:
    (run_id, other) = lab.submit(2, max_attempts=1)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.raises[run_id] = ConnectionError("the actor does not answer")
    lab.executor.of(other).log(1, train_loss=1.0)
    lab.rounds(controller, 2)
    assert lab.run(run_id).status == "running"
    assert lab.series(other, "train/loss") == {1: 1.0}
    for _ in range(10):
        lab.executor.of(other).log(2, train_loss=1.0)
        lab.rounds(controller, wait=50.0)
    assert lab.run(run_id).reason == "silent"
    with Reader(lab.paths) as reader:
        assert "the actor does not answer" in (reader.attempts(run_id)[0].traceback or "")
    assert lab.run(other).status == "running"


def test_a_row_that_the_store_cannot_hold_ends_its_own_attempt_alone(lab: Lab) -> None:
    (bad, good) = lab.submit(2)
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(bad).spool += b'{"kind":"metrics","at":1,"step":%d,"values":{"train/loss":1}}\n' % 2**70
    lab.executor.of(good).log(1, train_loss=1.0)
    lab.rounds(controller)
    run = lab.run(bad)
    assert (run.status, run.reason) == ("failed", "controller")
    assert "OverflowError" in (run.error or "")
    assert lab.executor.of(bad).released
    assert lab.series(good, "train/loss") == {1: 1.0}
    lab.executor.of(good).complete()
    lab.rounds(controller)
    assert lab.run(good).status == "completed"


def test_lines_that_cannot_be_read_become_warnings(lab: Lab) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    attempt = lab.executor.of(run_id)
    attempt.spool += b"{half a line\n"
    attempt.log(1, train_loss=1.0)
    lab.rounds(controller)
    assert lab.series(run_id, "train/loss") == {1: 1.0}
    with Reader(lab.paths) as reader:
        warnings = [event.data for event in reader.events(run_id) if event.kind == "warning"]
    assert warnings == [{"message": "unreadable line of the spool: {half a line"}]


def test_a_superseded_attempt_is_released_and_nothing_of_it_stored(lab: Lab) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    lab.sql("UPDATE run SET attempt = 2")  # as a newer controller would leave it
    lab.sql(
        f"INSERT INTO attempt (run_id, number, status, executor, started_at) VALUES ('{run_id}', 2, 'running', 'x', 0)"
    )
    zombie = lab.executor.of(run_id, 1)
    zombie.log(1, train_loss=9.0)
    lab.rounds(controller, 2)
    assert zombie.released
    assert run_id not in controller.watch.active
    assert lab.series(run_id, "train/loss") == {}


def test_the_next_controller_goes_on_where_the_last_one_died(lab: Lab) -> None:
    ids = lab.submit(3)
    first = lab.controller()
    lab.rounds(first)
    for run_id in ids[:2]:
        lab.executor.of(run_id).log(1, train_loss=1.0)
    lab.rounds(first)
    del first  # it dies without a word
    for run_id in ids[:2]:
        lab.executor.of(run_id).log(2, train_loss=2.0)
    second = lab.controller()
    lab.rounds(second, 2)
    assert [lab.series(run_id, "train/loss") for run_id in ids[:2]] == [{1: 1.0, 2: 2.0}] * 2
    assert lab.executor.started == ids[:2]  # both CPUs are still held
    assert all(lab.executor.of(run_id).starts == 1 for run_id in ids[:2])
    lab.executor.of(ids[0]).complete(2)
    lab.rounds(second)
    assert lab.statuses() == {ids[0]: "completed", ids[1]: "running", ids[2]: "running"}


def test_an_attempt_whose_handle_was_never_stored_is_found_by_starting_it_again(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.repository.begin_attempt(run_id, executor="fake", now=lab.clock.now())  # and there the controller died
    controller = lab.controller()
    lab.rounds(controller)
    attempt = lab.executor.of(run_id, 1)
    attempt.complete()
    lab.rounds(controller)
    assert lab.attempts(run_id) == [("completed", "steps")]


def test_an_unreadable_handle_does_not_keep_the_others_from_going_on(lab: Lab) -> None:
    (bad, good) = lab.submit(2)
    lab.rounds(lab.controller())
    lab.repository.set_handle(bad, 1, "nonsense")
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.of(good).complete()
    lab.rounds(controller)
    assert lab.run(good).status == "completed"
    assert lab.attempts(bad)[0] == ("lost", "lost")
    assert lab.run(bad).status == "running"  # attempt 2


def test_inline_attempts_of_a_dead_controller_are_lost_and_tried_again(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.repository.begin_attempt(run_id, executor="inline", now=lab.clock.now())
    controller = lab.controller()
    lab.rounds(controller)
    assert lab.attempts(run_id) == [("lost", "lost")]
    lab.rounds(controller, 2, wait=10.0)
    assert lab.run(run_id).status == "running"


def test_asked_to_end_it_stops_what_runs_and_queues_it_again(lab: Lab) -> None:
    ids = lab.submit(3, max_attempts=1)
    controller = lab.controller()
    lab.rounds(controller)
    controller.end()
    assert controller.run() is Ended.ASKED
    assert lab.statuses() == dict.fromkeys(ids, "queued")
    assert lab.attempts(ids[0]) == [("cancelled", "shutdown")]
    lab.executor.on_start = completes
    assert lab.controller().run() is Ended.IDLE
    assert lab.statuses() == dict.fromkeys(ids, "completed")


def test_ending_gives_up_on_workers_that_do_not(lab: Lab) -> None:
    (run_id,) = lab.submit()
    lab.executor.obedient = False
    controller = lab.controller()
    lab.rounds(controller)
    controller.end()
    assert controller.run() is Ended.ASKED
    assert lab.executor.of(run_id).released
    assert lab.run(run_id).status == "queued"


def test_a_run_larger_than_every_machine_fails_with_a_clear_error(lab: Lab) -> None:
    (large, small) = [*lab.submit(1, cpus=3.0), *lab.submit(1)]
    lab.rounds(lab.controller())
    run = lab.run(large)
    assert (run.status, run.reason) == ("failed", "unfit")
    assert "asks for 3 CPUs" in (run.error or "")
    assert "largest here has 2 CPUs" in (run.error or "")
    assert lab.run(small).status == "running"


def test_machines_may_take_their_time_to_join(lab: Lab) -> None:
    lab.settings = dataclasses.replace(lab.settings, unfit_s=60.0)
    (run_id,) = lab.submit(1, cpus=3.0)
    controller = lab.controller()
    lab.rounds(controller, wait=30.0)
    assert lab.run(run_id).status == "queued"
    lab.executor.nodes = (*lab.executor.nodes, Node("there", 8.0))
    lab.rounds(controller, wait=29.0)
    assert lab.executor.of(run_id).spec.node == "there"


@pytest.mark.parametrize(("nodes", "gpus", "devices"), [((Node("a", 4, 2),), 1.0, (0,)), ((Node("a", 4),), 0.0, ())])
def test_gpus_left_to_the_controller_are_one_where_there_is_any(
    lab: Lab, nodes: tuple[Node, ...], gpus: float, devices: tuple[int, ...]
) -> None:
    lab.executor.nodes = nodes
    (run_id,) = lab.submit(1, gpus=None)
    lab.rounds(lab.controller())
    spec = lab.executor.of(run_id).spec
    assert (spec.gpus, spec.devices) == (gpus, devices)


def test_attempts_take_turns_where_the_executor_runs_one_at_a_time(lab: Lab) -> None:
    lab.executor.nodes = (Node("inline", 1.0),)
    (first, second) = lab.submit(2, cpus=4.0)
    controller = lab.controller(exclusive=True)
    lab.rounds(controller)
    assert lab.executor.started == [first]
    lab.executor.of(first).complete()
    lab.rounds(controller)
    assert lab.executor.started == [first, second]


def test_trouble_of_the_store_is_waited_out_and_nothing_is_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_id,) = lab.submit()
    lab.executor.on_start = completes
    controller = lab.controller()
    refusals = iter([True] * 7)
    record_many = controller.watch.repository.record_many

    def refuse(pieces: Any) -> list[bool]:
        if next(refusals, False):
            raise StoreLocked("the disk is full")
        return record_many(pieces)

    monkeypatch.setattr(controller.watch.repository, "record_many", refuse)
    assert controller.run() is Ended.IDLE
    assert next(refusals, None) is None
    assert lab.series(run_id, "train/loss") == {1: 0.5}
    assert lab.attempts(run_id) == [("completed", "steps")]


def test_a_store_that_refuses_for_too_long_ends_the_controller(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.submit()
    lab.executor.on_start = completes
    controller = lab.controller()

    def refuse(pieces: list[tuple[str, int, RecordBatch]]) -> list[bool]:
        raise StoreLocked("the disk is full")

    monkeypatch.setattr(controller.watch.repository, "record_many", refuse)
    with pytest.raises(ControllerError, match="the disk is full"):
        controller.run()


def test_a_cluster_without_machines_is_lost_after_a_while(lab: Lab) -> None:
    lab.settings = dataclasses.replace(lab.settings, cluster_s=5.0)
    lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    lab.executor.nodes = ()
    lab.rounds(controller, 4)
    with pytest.raises(ClusterError, match="no living machine"):
        lab.rounds(controller, 4)


def test_a_spec_that_cannot_be_read_is_its_own_runs_trouble(lab: Lab) -> None:
    (bad, good) = [*lab.submit(1, spec={"resources": {"timeout_s": "soon"}}), *lab.submit(1)]
    controller = lab.controller()
    lab.rounds(controller)
    assert (lab.run(bad).status, lab.run(bad).reason) == ("failed", "controller")
    assert "soon" in (lab.run(bad).error or "")
    assert lab.executor.started == [good]


def test_a_removed_store_ends_the_controller_and_what_worked_for_it(lab: Lab) -> None:
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.rounds(controller)
    lab.paths.database.unlink()
    with pytest.raises(StoreRemovedError, match="was removed"):
        controller.run()
    assert lab.executor.of(run_id).released


def test_a_controller_that_need_not_idle_still_waits_for_what_runs(lab: Lab) -> None:
    lab.settings = dataclasses.replace(lab.settings, idle_s=0.0)
    (run_id,) = lab.submit()
    controller = lab.controller()
    lab.executor.on_start = lambda attempt: attempt.log(1, train_loss=1.0)
    wait = lab.clock.wait

    def end_it_in_a_while(seconds: float) -> None:
        wait(seconds)
        if lab.clock.monotonic() > 5.0:
            lab.executor.of(run_id).complete()

    lab.clock.wait = end_it_in_a_while  # type: ignore[method-assign]
    assert controller.run() is Ended.IDLE
    assert lab.run(run_id).status == "completed"
