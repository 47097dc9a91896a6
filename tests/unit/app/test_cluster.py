"""`mambalab cluster`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from storage.cluster import ClusterRow, Holding, Machine, Phase, Waiting
from storage.home import HomePaths
from storage.repository import Repository
from workers.jobs.files import write_json
from workers.jobs.lock import ControllerLock

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

CONTROLLER: dict[str, Any] = {"pid": os.getpid(), "created": 0.0, "host": "box", "executor": "ray", "address": "head:1",
                              "cluster": None, "started_at": 100.0}  # fmt: skip


@pytest.fixture
def held(home: HomePaths) -> Iterator[None]:
    """A controller that holds the store: this process."""
    lock = ControllerLock(home.controller_lock)
    assert lock.acquire()
    write_json(home.controller_json, CONTROLLER)
    yield
    lock.release()


def say(lab: Lab, **changes: Any) -> None:
    given: dict[str, Any] = {
        "at": time.time(),
        "controller": CONTROLLER,
        "phase": Phase.WORKING,
        "machines": (Machine("n1", "box 10.0.0.1", 4.0, 2, (Holding(lab.single, 1, 1.0, 0.5, (1,)),)),),
        "waiting": (Waiting(lab.runs[3], "asks for 1 GPUs, 0 free"),),
        "waiting_total": 3,
    }
    with Repository(lab.paths) as repository:
        repository.set_cluster(ClusterRow(**{**given, **changes}))


@pytest.mark.usefixtures("held")
def test_holders_and_queue_are_listed(call: Call, lab: Lab) -> None:
    say(lab)
    done = call("cluster")
    assert done.code == 0
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["machine", "place", "id", "run", "status", "done", "share", "uses, or waits because"]
    assert rows == [
        ["box 10.0.0.1", "GPU 0", "", "free", "", "", "", ""],
        ["box 10.0.0.1", "GPU 1", lab.single, "seed 7 · alone", "running", "50%", "0.5 GPU 1 CPU", ""],
        ["queue", "1.", lab.runs[3], "s4d · seed 1 · demo", "queued", "", "", "asks for 1 GPUs, 0 free"],
    ]
    assert f"the controller is at work; process {os.getpid()} on box, executor ray at head:1, started" in done.stderr
    assert "box 10.0.0.1: 1 of 4 CPUs, 0.5 of 2 GPUs in use" in done.stderr
    assert "3 runs wait; the first 1 are listed" in done.stderr


@pytest.mark.usefixtures("held")
def test_json_holds_all_of_it(call: Call, lab: Lab) -> None:
    say(lab, told="the Ray head does not answer", machines=())
    told = call("cluster", "--json").json
    assert (told["standing"], told["told"]) == ("cluster down", "the Ray head does not answer")
    assert told["cluster"]["controller"] == CONTROLLER
    assert told["cluster"]["waiting"] == [{"run_id": lab.runs[3], "why": "asks for 1 GPUs, 0 free", "due": None}]


def test_a_controller_that_is_gone_is_told(call: Call, lab: Lab) -> None:
    assert call("cluster").stderr == "no controller has worked on this store yet\n"
    assert call("cluster", "--json").json["cluster"] is None
    say(lab)
    assert "is gone without a word" in call("cluster").stderr
    say(lab, phase=Phase.ENDED, told="it was asked to")
    assert "the controller has ended: it was asked to" in call("cluster").stderr


def test_a_controller_that_has_yet_to_say_who_it_is_starts(call: Call, lab: Lab) -> None:
    lock = ControllerLock(lab.paths.controller_lock)
    assert lock.acquire()
    try:
        assert call("cluster").stderr == "the controller starts\n"
        say(lab, phase=Phase.STARTING, told="starts a Ray head", machines=(), waiting=())
        write_json(lab.paths.controller_json, CONTROLLER)
        told = call("cluster").stderr
    finally:
        lock.release()
    assert "the controller starts a Ray head; process" in told
    assert "3 runs wait\n" in told


def test_no_store_is_not_found(call: Call) -> None:
    assert call("cluster").code == 3
