"""What the controller says of its cluster: who holds what, why the queue waits, and when it says so."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from storage.cluster import ClusterRow, Holding, Phase, Waiting
from storage.queries import Reader
from tests.unit.workers.jobs.conftest import EPOCH, Lab
from workers.jobs.cluster_state import QUEUE_SHOWN, announce
from workers.jobs.controller import Controller, Ended
from workers.jobs.executors.base import Node

RECORD: dict[str, Any] = {"pid": 7, "host": "here", "executor": "fake", "address": "", "cluster": None}


@pytest.fixture
def controller(lab: Lab) -> Controller:
    return lab.controller(record=RECORD)


def said(lab: Lab) -> ClusterRow:
    with Reader(lab.paths) as reader:
        found = reader.cluster()
    assert found is not None
    return found


def test_it_says_who_holds_what_and_why_the_others_wait(lab: Lab, controller: Controller) -> None:
    lab.executor.nodes = (Node("n1", 4.0, 2, "box"),)
    (half,) = lab.submit(cpus=1.0, gpus=0.5)
    (whole,) = lab.submit(cpus=1.0, gpus=1.0)
    (second,) = lab.submit(cpus=1.0, gpus=1.0)
    (large,) = lab.submit(cpus=3.0, gpus=0.0)
    (small,) = lab.submit(cpus=1.5, gpus=0.0)
    lab.rounds(controller)
    row = said(lab)
    assert (row.controller, row.phase, row.told) == (RECORD, Phase.WORKING, "")
    (machine,) = row.machines
    assert (machine.host, machine.cpus, machine.gpus) == ("box", 4.0, 2)
    assert set(machine.holdings) == {Holding(half, 1, 1.0, 0.5, (0,)), Holding(whole, 1, 1.0, 1.0, (1,))}
    assert row.waiting == (
        Waiting(second, "asks for 1 GPU, 0 free"),
        Waiting(large, "asks for 3 CPUs, 2 free"),
        Waiting(small, "keeps room for larger runs before it"),
    )
    assert row.waiting_total == 3


def test_a_run_that_pauses_says_until_when(lab: Lab, controller: Controller) -> None:
    (run_id,) = lab.submit()
    lab.rounds(controller)
    lab.executor.of(run_id).dies()
    lab.rounds(controller, 2)
    (waiting,) = said(lab).waiting
    assert waiting.why == "pauses before its next attempt"
    assert waiting.due is not None
    assert waiting.due > lab.clock.now()


def test_a_head_that_does_not_answer_is_told(lab: Lab, controller: Controller) -> None:
    (run_id,) = lab.submit()
    lab.executor.nodes = ()
    lab.rounds(controller)
    row = said(lab)
    assert (row.told, row.machines) == ("there is no machine", ())
    assert row.waiting == (Waiting(run_id, "no machine has joined yet"),)
    lab.executor.name = "ray"
    lab.rounds(controller)
    assert said(lab).told == "the Ray head does not answer"
    lab.executor.nodes = (Node("here", 1.0),)
    lab.rounds(controller, 2)
    assert said(lab).told == ""


def test_a_run_that_no_machine_can_hold_says_so_while_machines_may_join(lab: Lab) -> None:
    object.__setattr__(lab.settings, "unfit_s", 60.0)
    controller = lab.controller(record=RECORD)
    lab.submit(cpus=64.0)
    lab.rounds(controller)
    assert [waiting.why for waiting in said(lab).waiting] == ["larger than every machine"]


def test_only_the_first_runs_of_a_long_queue_are_listed(lab: Lab, controller: Controller) -> None:
    lab.submit(QUEUE_SHOWN + 10, cpus=2.0)
    lab.rounds(controller)
    row = said(lab)
    assert (len(row.waiting), row.waiting_total) == (QUEUE_SHOWN, QUEUE_SHOWN + 9)


def test_without_changes_it_says_something_every_five_seconds(lab: Lab, controller: Controller) -> None:
    times: list[float] = []
    for _ in range(40):
        lab.rounds(controller, wait=0.5)
        at = said(lab).at
        if not times or at != times[-1]:
            times.append(at)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps
    assert all(gap == 5.0 for gap in gaps)


def test_changes_are_told_once_a_second_at_most(lab: Lab, controller: Controller) -> None:
    times = set()
    for _ in range(20):
        lab.submit()
        lab.rounds(controller, wait=0.1)
        times.add(said(lab).at)
    assert len(times) <= 3


def test_its_end_is_told_with_the_reason(lab: Lab) -> None:
    controller = lab.controller(record=RECORD)
    assert controller.run() is Ended.IDLE
    assert (said(lab).phase, said(lab).told) == (Phase.ENDED, "nothing was left to do")
    (run_id,) = lab.submit()
    controller = lab.controller(record=RECORD)
    controller.end()
    assert controller.run() is Ended.ASKED
    row = said(lab)
    assert (row.told, row.machines) == ("it was asked to", ())
    assert row.waiting == (Waiting(run_id, "no controller works on the queue"),)


def test_what_comes_before_the_loop_is_told_too(lab: Lab) -> None:
    lab.submit(2)
    announce(lab.paths, RECORD, EPOCH, "starts a Ray head")
    row = said(lab)
    assert (row.at, row.phase, row.told, row.waiting_total) == (EPOCH, Phase.STARTING, "starts a Ray head", 2)


def test_a_controller_that_does_not_say_who_it_is_says_nothing(lab: Lab) -> None:
    lab.submit()
    lab.rounds(lab.controller())
    with Reader(lab.paths) as reader:
        assert reader.cluster() is None
