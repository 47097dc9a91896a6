"""`mambalab down`: exactly what a store started ends, its runs keep their state, and nobody else notices."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.chaos.test_kills import cluster_of
from tests.e2e.jobs_lab import JobsLab, eventually, lab
from workers.jobs.cluster import ClusterRecord, members
from workers.jobs.detach import daemon_command, spawn_controller
from workers.jobs.lock import ControllerLock
from workers.jobs.shutdown import shut_down
from workers.jobs.submission import controller_alive


def test_where_nothing_runs_there_is_nothing_to_end(tmp_path: Path) -> None:
    made = JobsLab(tmp_path / "home", "subprocess")
    assert shut_down(made.paths) == []
    assert not made.paths.root.exists()


def test_running_runs_save_their_state_and_go_back_to_the_queue(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess") as own:
        run_ids = own.submit(**own.gated(8), seeds=[0, 1])
        for run_id in run_ids[:2]:
            own.at_step(run_id, 7)
        controller = own.controller()
        workers = [own.worker(run_id) for run_id in run_ids[:2]]
        lines = shut_down(own.paths)
        assert not psutil.pid_exists(controller.pid)  # a child of this process: not even a zombie
        assert not any(worker.alive() for worker in workers)
        assert lines[0] == f"ended the controller (process {controller.pid}, executor subprocess)"
        assert sorted(lines[1:]) == sorted(f"stopped run {run_id}; it is queued" for run_id in run_ids[:2])
        assert shut_down(own.paths) == []
        for run_id in run_ids:
            own.opened(run_id)
        own.start()
        for run_id in run_ids:
            own.wait_for(run_id, "completed", "failed")
            own.check_exact(run_id)
        assert [attempt.resumed_from for attempt in own.attempts(run_ids[0])] == [None, 7]


def test_a_controller_that_is_being_started_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission has asked for a controller that does not yet hold the store when `down` is called."""
    with lab(tmp_path / "home", "subprocess") as own:
        run_id = own.one(**own.gated(8))
        own.at_step(run_id, 7)
        own.down()
        starting = ControllerLock(own.paths.spawn_lock)
        assert starting.acquire()
        asked = threading.Event()
        acquire = ControllerLock.acquire

        def noticed(lock: ControllerLock, patience_s: float = 0.0) -> bool:
            asked.set()
            return acquire(lock, patience_s)

        monkeypatch.setattr("workers.jobs.lock.ControllerLock.acquire", noticed)
        lines: list[str] = []
        down = threading.Thread(target=lambda: lines.extend(shut_down(own.paths)))
        down.start()
        eventually(lambda: asked.is_set() or not down.is_alive(), "what `down` does first")
        spawn_controller(own.paths, daemon_command(own.paths, own.options))
        eventually(lambda: controller_alive(own.paths), "the controller")
        starting.release()
        down.join()
        assert [line.partition(" (")[0] for line in lines[:1]] == ["ended the controller"]
        assert not controller_alive(own.paths)


def test_what_a_dead_controller_left_is_ended_too(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess") as own:
        run_id = own.one(**own.gated(8))
        own.at_step(run_id, 7)
        worker = own.worker(run_id)
        own.kill_controller()
        assert worker.alive()
        assert shut_down(own.paths) == [f"stopped run {run_id}; it is queued"]
        assert not worker.alive()
        assert own.attempts(run_id)[0].reason == "shutdown"
        assert own.run(run_id).step == 7
        assert shut_down(own.paths) == []


@pytest.mark.e2e
def test_the_head_that_a_dead_controller_left_ends_and_nobody_elses_processes(
    tmp_path: Path, ray_head: ClusterRecord
) -> None:
    """Beside the store: another store with its controller and worker, another Ray head, and a bystander."""
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with lab(tmp_path / "other" / "home", "subprocess") as other, lab(tmp_path / "home", "ray") as own:
        theirs = other.one(**other.gated(8))
        other.at_step(theirs, 7)
        ours = own.one(**own.gated(8))
        own.at_step(ours, 7)
        worker = own.worker(ours)
        others = [other.controller(), other.worker(theirs)]
        elsewhere = lasting(ray_head)
        cluster = cluster_of(own)
        own.kill_controller()
        assert worker.alive()
        lines = own.down()
        assert f"ended its Ray head ({cluster.address})" in lines
        assert f"stopped run {ours}; it is queued" in lines
        assert members(cluster) == []
        assert not worker.alive()
        assert own.run(ours).step == 7
        assert all(process.alive() for process in others)
        assert lasting(ray_head) == elsewhere
        assert bystander.poll() is None
        other.opened(theirs)
        other.wait_for(theirs, "completed")
        other.check_exact(theirs)
    bystander.communicate()


def lasting(cluster: ClusterRecord) -> set[tuple[int, str]]:
    """Return the processes of a head that live as long as it does; its workers come and go."""
    names = {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    found = {(process.pid, process.name()) for process in members(cluster) if process.name() in names}
    assert {name for _, name in found} == names
    return found


def test_sigterm_ends_a_controller_as_down_does(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess") as own:
        run_id = own.one(**own.gated(8))
        own.at_step(run_id, 7)
        worker = own.worker(run_id)
        assert own.controller().send(signal.SIGTERM)
        eventually(lambda: not controller_alive(own.paths), "the controller's end")
        assert not worker.alive()
        assert own.run(run_id).status == "queued"
        assert not own.paths.controller_json.exists()
        assert (own.paths.run_dir(run_id) / "checkpoints" / "step-000007").is_dir()


def test_a_store_that_is_removed_takes_its_processes_along(tmp_path: Path) -> None:
    with lab(tmp_path / "home", "subprocess") as own:
        run_id = own.one(**own.gated(8))
        own.at_step(run_id, 7)
        worker, controller = own.worker(run_id), own.controller()
        shutil.rmtree(own.paths.root)
        eventually(lambda: not controller.alive(), "the controller's end")
        assert not worker.alive()
