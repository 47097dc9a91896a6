"""Which queued runs start as one ensemble, and that they hold their place once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.workers.jobs.conftest import Lab
from workers.jobs.executors.base import Node
from workers.specs import RunSpec


def queue(lab: Lab, seeds: int, spec: dict[str, Any], *, gpus: float | None = None, priority: int = 0) -> list[str]:
    """Queue seeds of a run whose spec says how they may be packed."""
    trees = [RunSpec.model_validate({**spec, "seed": seed}).model_dump(mode="json") for seed in range(seeds)]
    return [lab.submit(spec=tree, gpus=gpus, priority=priority)[0] for tree in trees]


def status(lab: Lab, run_id: str) -> str:
    return lab.run(run_id).status


def packs(lab: Lab) -> list[list[str]]:
    """Return the runs that were started, those of one worker together, in the order of their start."""
    found: dict[str, list[str]] = {}
    for attempt in (one.spec for one in lab.executor.attempts.values()):
        found.setdefault(attempt.leader or attempt.key, []).append(attempt.run_id)
    return list(found.values())


SMALL = {"model": {"d_model": 16}, "train": {"batch_size": 2}}


def test_small_runs_share_a_gpu_by_themselves(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 8.0, 1),)
    runs = queue(lab, 3, SMALL)
    other = queue(lab, 1, {**SMALL, "model": {"d_model": 32}})
    lab.rounds(lab.controller())
    assert packs(lab) == [runs]
    assert status(lab, other[0]) == "queued"


def test_they_take_all_gpus_before_they_share_one(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 8.0, 2),)
    runs = queue(lab, 3, SMALL)
    lab.rounds(lab.controller())
    assert packs(lab) == [runs[:2], runs[2:]]


@pytest.mark.parametrize(
    "why",
    [
        {"model": {"d_model": 2048}, "train": {"batch_size": 64}},
        {**SMALL, "resources": {"pack": "off"}},
        {**SMALL, "model": {"d_model": 16, "dropout": 0.1}},
    ],
    ids=["large", "off", "dropout"],
)
def test_others_do_not_share(lab: Lab, why: dict[str, Any]) -> None:
    lab.executor.nodes = (Node("n1", 8.0, 1),)
    runs = queue(lab, 2, why)
    lab.rounds(lab.controller())
    assert packs(lab) == [runs[:1]]


def test_a_run_that_names_its_share_gets_it(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 8.0, 1),)
    runs = queue(lab, 2, SMALL, gpus=1.0)
    lab.rounds(lab.controller())
    assert packs(lab) == [runs[:1]]


def test_without_a_gpu_only_a_number_packs(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 1.0),)
    auto = queue(lab, 1, SMALL, priority=1)
    lab.rounds(lab.controller())
    assert packs(lab) == [auto]
    lab.executor.of(auto[0]).complete()
    asked = queue(lab, 5, {**SMALL, "resources": {"pack": 3}})
    lab.rounds(lab.controller(), 3)
    assert packs(lab)[1:] == [asked[:3]]


def test_another_priority_is_not_dragged_along(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 1.0),)
    urgent = queue(lab, 1, {**SMALL, "resources": {"pack": 4}}, priority=1)
    queue(lab, 2, {**SMALL, "resources": {"pack": 4}})
    lab.rounds(lab.controller())
    assert packs(lab) == [urgent]


def test_their_place_is_free_once_the_last_has_ended(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 1.0),)
    controller = lab.controller()
    runs = queue(lab, 3, {**SMALL, "resources": {"pack": 3}})
    (later,) = queue(lab, 1, {**SMALL, "model": {"d_model": 32}})
    lab.rounds(controller)
    for run_id in runs[:2]:
        lab.executor.of(run_id).complete()
    lab.rounds(controller, 3)
    assert [status(lab, run_id) for run_id in (*runs, later)] == ["completed", "completed", "running", "queued"]
    lab.executor.of(runs[2]).complete()
    lab.rounds(controller, 3)
    assert status(lab, later) == "running"


def test_what_broke_down_together_starts_alone(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 4.0),)
    controller = lab.controller()
    runs = queue(lab, 2, {**SMALL, "resources": {"pack": 2}})
    lab.rounds(controller)
    for run_id in runs:
        lab.executor.of(run_id).dies()
    lab.rounds(controller, 3)
    lab.clock.seconds += 600
    lab.rounds(controller, 3)
    assert packs(lab) == [runs, runs[:1], runs[1:]]


def test_a_restarted_controller_counts_them_once_again(lab: Lab) -> None:
    lab.executor.nodes = (Node("n1", 2.0),)
    runs = queue(lab, 3, {**SMALL, "resources": {"pack": 3}})
    lab.rounds(lab.controller())
    (beside,) = queue(lab, 1, {**SMALL, "model": {"d_model": 32}})
    lab.rounds(lab.controller(), 2)
    assert [status(lab, run_id) for run_id in (*runs, beside)] == ["running"] * 4
