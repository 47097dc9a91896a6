"""Whoever is killed, whenever: nothing that was stored is lost or doubled, and the runs end as if nothing had been."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.jobs_lab import JobsLab, changed, eventually, lab
from workers.jobs.cluster import ClusterRecord, members
from workers.jobs.launch import with_this_code
from workers.jobs.lock import read_record


@pytest.fixture(params=["subprocess", pytest.param("ray", marks=pytest.mark.e2e)], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsLab]:
    """A store with either executor, whose controller serves all tests here or is started again after it was killed."""
    options = {"address": request.getfixturevalue("ray_head").address} if request.param == "ray" else {}
    with lab(tmp_path_factory.mktemp("chaos") / "home", request.param, **options) as made:
        yield made


def test_a_killed_worker_is_tried_again_from_its_checkpoint(store: JobsLab) -> None:
    run_id = store.one(**store.gated(8))
    store.at_step(run_id, 7)
    assert store.worker(run_id).send(signal.SIGKILL)
    store.opened(run_id)
    store.wait_for(run_id, "completed", "failed")
    store.check_exact(run_id)
    attempts = store.attempts(run_id)
    assert [(attempt.status, attempt.reason) for attempt in attempts] == [("lost", "killed"), ("completed", "steps")]
    assert attempts[0].exit_code == -9
    assert attempts[1].resumed_from == 5


def test_a_worker_that_is_always_killed_fails_clearly_in_the_end(store: JobsLab) -> None:
    run_id = store.one(**store.gated(8), resources={"max_attempts": 2})
    for number in (1, 2):
        store.wait(run_id, lambda run, number=number: run.attempt == number and run.step >= 7)  # type: ignore[misc]
        eventually(lambda: store.worker(run_id).send(signal.SIGKILL), "a worker to kill")
        store.wait(run_id, lambda run, number=number: run.status != "running" or run.attempt > number)  # type: ignore[misc]
    run = store.wait_for(run_id, "failed")
    assert (run.reason, run.attempt, run.step) == ("killed", 2, 7)
    assert "SIGKILL" in (run.error or "")


def test_killing_the_controller_again_and_again_loses_nothing(store: JobsLab) -> None:
    run_ids = store.submit(**store.gated(8, steps=60))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    store.kill_controller()
    store.start()
    store.kill_controller()  # this one may have attached, or not yet
    for run_id in run_ids:
        store.opened(run_id)
    store.start()
    for run_id in run_ids:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id, 60)
        assert len(store.attempts(run_id)) == 1


def test_worker_and_controller_killed_together(store: JobsLab) -> None:
    run_id = store.one(**store.gated(8))
    store.at_step(run_id, 7)
    worker = store.worker(run_id)
    store.kill_controller()
    assert worker.send(signal.SIGKILL)
    store.opened(run_id)
    store.start()
    store.wait_for(run_id, "completed", "failed")
    store.check_exact(run_id)
    assert [attempt.status for attempt in store.attempts(run_id)] == ["lost", "completed"]


@pytest.mark.e2e
def test_a_killed_actor_takes_its_worker_along_and_the_run_is_tried_again(
    tmp_path: Path, ray_head: ClusterRecord
) -> None:
    with lab(tmp_path / "home", "ray", address=ray_head.address) as own:
        run_id = own.one(**own.gated(8))
        own.at_step(run_id, 7)
        worker = own.worker(run_id)
        process = worker.process()
        assert process is not None
        actor = process.parent()
        assert actor is not None
        assert "RunActor" in actor.name()
        actor.kill()
        eventually(lambda: not worker.alive(), "the end of the worker")
        own.opened(run_id)
        own.wait_for(run_id, "completed", "failed")
        own.check_exact(run_id)
        assert [attempt.status for attempt in own.attempts(run_id)] == ["lost", "completed"]


@pytest.mark.e2e
def test_attempts_move_to_another_executor(tmp_path: Path, ray_head: ClusterRecord) -> None:
    """A controller of another kind than the last one stops what that one left, and goes on from its checkpoint."""
    with lab(tmp_path / "home", "subprocess") as before:
        run_id = before.one(**before.gated(8))
        before.at_step(run_id, 7)
        before.kill_controller()
        after = changed(before, executor="ray", address=ray_head.address)
        after.start()
        after.wait(run_id, lambda run: run.attempt == 2, "the second attempt")
        after.opened(run_id)
        after.wait_for(run_id, "completed", "failed")
        after.check_exact(run_id)
        attempts = after.attempts(run_id)
        assert [(one.executor, one.status) for one in attempts] == [("subprocess", "cancelled"), ("ray", "completed")]
        assert attempts[1].resumed_from == 7


@pytest.mark.e2e
def test_runs_go_on_with_a_new_cluster_when_theirs_dies(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "ray") as own:
        run_id = own.one(**own.gated(8))
        own.at_step(run_id, 7)
        controller = own.controller()
        first = cluster_of(own)
        (raylet,) = [process for process in members(first) if process.name() == "raylet"]
        worker = own.worker(run_id)
        raylet.kill()
        eventually(lambda: not worker.alive(), "the end of the worker")
        own.opened(run_id)
        own.wait_for(run_id, "completed", "failed")
        own.check_exact(run_id)
        second = cluster_of(own)
        assert second.mark != first.mark
        assert members(first) == []
        assert own.controller().pid == controller.pid  # it started over without letting go of the store
        assert "its runs go on with a new one" in own.log


SUBMIT = """
import sys
from pathlib import Path
from tests.e2e.jobs_lab import JobsLab
lab = JobsLab(Path(sys.argv[1]), "subprocess")
print(lab.one(**lab.gated(8)), flush=True)
sys.stdin.read()
"""


def test_closing_the_terminal_that_submitted_changes_nothing(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess") as own:
        leader, follower = pty.openpty()
        submitter = subprocess.Popen(
            [sys.executable, "-c", SUBMIT, str(own.paths.root)],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=with_this_code(os.environ),
            preexec_fn=_take_terminal,
        )
        os.close(follower)
        said = b""
        while b"\n" not in said:
            said += os.read(leader, 1024)
        run_id = said.decode().split()[0]
        own.at_step(run_id, 7)
        worker, controller = own.worker(run_id), own.controller()
        os.close(leader)  # the terminal's window closes: SIGHUP to its whole session
        assert submitter.wait(30) == -signal.SIGHUP
        assert worker.alive()
        assert controller.alive()
        own.opened(run_id)
        own.wait_for(run_id, "completed")
        own.check_exact(run_id)
        assert len(own.attempts(run_id)) == 1


def _take_terminal() -> None:
    """Make this process the leader of a session whose terminal is its stdin."""
    import fcntl
    import termios

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite run by nohup hands on that it is ignored
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def cluster_of(made: JobsLab) -> ClusterRecord:
    record = eventually(
        lambda: (found := read_record(made.paths)) and found.cluster is not None and found, "the cluster's record"
    )
    assert record.cluster is not None
    return ClusterRecord.from_json(record.cluster)
