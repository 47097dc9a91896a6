"""The whole jobs room with worker processes of this machine: real controllers, real workers, no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.queries import Reader
from storage.status import RequestKind
from tests.e2e.jobs_lab import TRIAL, JobsLab, eventually, lab
from workers.jobs.controller import Controller, Ended
from workers.jobs.executors.subprocess import SubprocessExecutor
from workers.jobs.launch import with_this_code
from workers.jobs.lock import ControllerLock
from workers.jobs.retry import Backoff
from workers.jobs.settings import ControllerSettings
from workers.jobs.submission import controller_alive


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsLab]:
    """A store with one controller for all tests that leave it alive."""
    with lab(tmp_path_factory.mktemp("shared") / "home", "subprocess") as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[JobsLab]:
    """A store of the test's own."""
    with lab(tmp_path / "home", "subprocess") as made:
        yield made


def test_an_ablation_runs_to_its_end_and_every_value_is_exact(store: JobsLab) -> None:
    run_ids = store.submit(seeds=[0, 1])
    for run_id in run_ids:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
    with Reader(store.paths) as reader:
        facts = reader.run_facts(run_ids[0])
        events = [event.kind for event in reader.events(run_ids[0])]
        checkpoints = [checkpoint.step for checkpoint in reader.checkpoints(run_ids[0])]
    assert facts["hardware"]["threads"] == "1"
    assert events == ["started", "completed"]
    assert checkpoints == [40]


def test_a_failure_keeps_its_traceback_and_the_others_go_on(store: JobsLab) -> None:
    run_ids = store.submit("explode", seeds=[0, 1])
    runs = [store.wait_for(run_id, "completed", "failed") for run_id in run_ids]
    assert [(run.seed, run.status) for run in runs] == [
        (0, "completed"),
        (0, "completed"),
        (1, "failed"),
        (1, "failed"),
    ]
    failed = runs[-1]
    assert (failed.reason, failed.error, failed.attempt) == ("error", "ZeroDivisionError: one over nothing", 1)
    (attempt,) = store.attempts(failed.id)
    assert "in explode" in (attempt.traceback or "")
    assert attempt.exit_code == 1


def test_running_out_of_memory_gets_one_more_try(store: JobsLab) -> None:
    run_id = store.one("hungry")
    assert store.wait_for(run_id, "failed").reason == "oom"
    assert len(store.attempts(run_id)) == 2


def test_a_cancelled_run_saves_its_state_and_its_worker_ends(store: JobsLab) -> None:
    run_id = store.one(**store.gated(8))
    store.at_step(run_id, 7)
    worker = store.worker(run_id)
    store.ask(RequestKind.CANCEL, run_id)
    run = store.wait_for(run_id, "cancelled")
    assert not worker.alive()
    with Reader(store.paths) as reader:
        eventually(lambda: reader.requests(run_id)[0].outcome == "cancelled", "the request's outcome")
        assert [checkpoint.step for checkpoint in reader.checkpoints(run_id)] == [5, 7]
    assert run.step == 7


def test_a_cancelled_run_goes_on_where_it_was_when_it_is_retried(store: JobsLab) -> None:
    run_id = store.one(**store.gated(8))
    store.at_step(run_id, 7)
    store.ask(RequestKind.CANCEL, run_id)
    store.wait_for(run_id, "cancelled")
    store.opened(run_id)
    store.ask(RequestKind.RETRY, run_id)
    store.wait_for(run_id, "completed")
    store.check_exact(run_id)
    assert [attempt.resumed_from for attempt in store.attempts(run_id)] == [None, 7]


def test_a_run_longer_than_its_timeout_fails(store: JobsLab) -> None:
    run_id = store.one(**store.gated(3), resources={"timeout_s": 0.5})
    run = store.wait_for(run_id, "failed")
    assert (run.reason, run.attempt) == ("timeout", 1)


def test_a_worker_that_does_not_heed_is_killed_after_its_grace(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess", grace_s=0.5) as own:
        run_id = own.one("stubborn")
        own.at_step(run_id, 1)
        worker = own.worker(run_id)
        own.ask(RequestKind.CANCEL, run_id)
        own.wait_for(run_id, "cancelled")
        assert not worker.alive()
        assert own.attempts(run_id)[0].exit_code == -9


def test_a_frozen_worker_is_given_up_and_its_run_tried_again(tmp_path: Path) -> None:
    """Nothing but silence tells: the process is there, stopped."""
    made = JobsLab(tmp_path / "home", "subprocess")
    made.start = lambda: None  # type: ignore[method-assign] # the controller is below, in this process
    run_id = made.one("breathless")
    settings = ControllerSettings(
        trial=TRIAL, idle_s=0.0, silence_s=4.0, silent_grace_s=0.2, backoff=Backoff(first_s=0.0)
    )
    controller = Controller(made.paths, SubprocessExecutor(cpus=2, gpus=0), settings)
    assert controller.run() is Ended.IDLE
    controller.close()
    made.check_exact(run_id)
    assert [(attempt.status, attempt.reason) for attempt in made.attempts(run_id)] == [
        ("lost", "silent"),
        ("completed", "steps"),
    ]


def test_the_next_controller_finds_the_workers_of_one_that_was_killed(own: JobsLab) -> None:
    run_ids = own.submit(**own.gated(8))
    for run_id in run_ids:
        own.at_step(run_id, 7)
    workers = [own.worker(run_id) for run_id in run_ids]
    first = own.controller()
    own.kill_controller()
    assert all(worker.alive() for worker in workers)
    own.opened(run_ids[0])  # this one goes on, and ends, while no controller lives
    eventually(lambda: not workers[0].alive(), "the end of a worker")
    own.start()
    own.opened(run_ids[1])
    for run_id in run_ids:
        own.wait_for(run_id, "completed", "failed")
        own.check_exact(run_id)
        assert len(own.attempts(run_id)) == 1
    assert own.controller() != first


def test_a_controller_ends_when_it_has_been_idle_and_another_one_starts(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess", idle_s=0.2) as own:
        first = own.one()
        own.wait_for(first, "completed")
        eventually(lambda: not controller_alive(own.paths), "the end of an idle controller")
        assert not own.paths.controller_json.exists()
        second = own.one()
        own.wait_for(second, "completed")
        own.check_exact(second)


def test_each_worker_sees_the_gpus_that_it_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")  # as if there were two GPUs, which nobody touches
    with lab(tmp_path / "home", "subprocess") as own:
        run_ids = own.submit(**own.gated(8), resources={"gpus": "auto"})  # that is a whole one each
        for run_id in run_ids:
            own.at_step(run_id, 7)
        with Reader(own.paths) as reader:
            assert [reader.run_facts(run_id)["hardware"]["gpus"] for run_id in run_ids] == ["5", "7"]


def test_many_submitters_at_once_get_one_controller(own: JobsLab) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.e2e.jobs_lab import JobsLab;"
        "JobsLab(Path(sys.argv[1]), 'subprocess').one()"
    )
    submitters = [
        subprocess.Popen([sys.executable, "-c", code, str(own.paths.root)], env=with_this_code(os.environ))
        for _ in range(3)
    ]
    assert [submitter.wait(90) for submitter in submitters] == [0, 0, 0]
    with Reader(own.paths) as reader:
        run_ids = [run.id for run in reader.runs()]
    assert len(run_ids) == 3
    for run_id in run_ids:
        own.wait_for(run_id, "completed")
        own.check_exact(run_id)
    assert own.log.count("INFO controller of") == 1


INLINE = """
import sys
from pathlib import Path
from storage.home import HomePaths
from workers.jobs.inline import run_inline
run_inline(HomePaths(Path(sys.argv[1])), trial="tests.e2e.jobs_trials:named")
"""


def test_the_queue_can_be_run_in_one_process(tmp_path: Path) -> None:
    made = JobsLab(tmp_path / "home", "inline")
    made.start = lambda: None  # type: ignore[method-assign] # there is none
    good = made.submit(seeds=[0], resources={"cpus": 8})
    bad = made.submit("explode", seeds=[1])
    command = [sys.executable, "-W", "error", "-c", INLINE, str(made.paths.root)]
    environment = {**with_this_code(os.environ), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=90)
    for run_id in good:
        made.check_exact(run_id)
    for run_id in bad:
        assert made.run(run_id).reason == "error"
    lock = ControllerLock(made.paths.controller_lock)
    assert lock.acquire()
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)
    lock.release()
    assert refused.returncode == 1
    assert "another controller holds" in refused.stderr
