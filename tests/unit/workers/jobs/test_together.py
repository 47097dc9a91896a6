"""What a run of several processes is given: a GPU for each, its CPUs among them, and Ray's environment where Ray Train starts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.workers.jobs.test_packer import queue
from workers.jobs.attempt import AttemptSpec
from workers.jobs.executors.base import Node
from workers.jobs.launch import worker_environment

if TYPE_CHECKING:
    from tests.unit.workers.jobs.conftest import Lab


def test_each_process_gets_a_gpu_where_the_controller_chooses(lab: Lab) -> None:
    lab.executor.nodes = (Node("one", 8, 4),)
    run_ids = queue(lab, 3, {"train": {"data_parallel": 2}})
    lab.rounds(lab.controller())
    assert [lab.executor.of(run_id).spec.gpus for run_id in run_ids[:2]] == [2.0, 2.0]
    assert run_ids[2] not in lab.executor.started  # all four are in use


@pytest.mark.parametrize(("asked", "threads"), [(0, 2), (5, 5)])
def test_its_cpus_are_dealt_to_its_processes(asked: int, threads: int) -> None:
    spec = {"train": {"data_parallel": 4, "threads": asked}}
    assert AttemptSpec("run", 1, "/runs/1", "/runs/1/1", spec, cpus=8.0).threads == threads


def test_ray_s_environment_is_kept_for_a_worker_that_joins_the_cluster_alone() -> None:
    base = {"RAY_AUTH_TOKEN_PATH": "/token", "RAY_JOB_ID": "7", "HOME": "/home"}
    alone = AttemptSpec("run", 1, "/runs/1", "/runs/1/1", {})
    joining = AttemptSpec("run", 1, "/runs/1", "/runs/1/1", {}, cluster="127.0.0.1:6379")
    assert not [name for name in worker_environment(alone, base) if name.startswith("RAY_")]
    assert [name for name in worker_environment(joining, base) if name.startswith("RAY_")] == ["RAY_AUTH_TOKEN_PATH"]
