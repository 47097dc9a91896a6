"""The whole jobs room on a real Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from storage.queries import Reader
from storage.status import RequestKind
from tests.e2e.jobs_lab import JobsLab, eventually, lab, processes_of
from workers.jobs.cluster import ClusterRecord, members
from workers.jobs.lock import read_record
from workers.jobs.submission import controller_alive

pytestmark = pytest.mark.e2e

TINY = {
    "task": {"name": "copying", "context": 8, "memorize": 2},
    "model": {"d_model": 16, "n_layer": 1, "d_state": 4},
}
TINY_TRAIN = {"steps": 4, "batch_size": 2, "eval_batches": 1, "log_every": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, ray_head: ClusterRecord) -> Iterator[JobsLab]:
    """A store whose controller has joined the session's cluster, for all tests that leave it alive."""
    with lab(tmp_path_factory.mktemp("shared") / "home", "ray", address=ray_head.address) as made:
        yield made


def test_an_ablation_runs_to_its_end_and_every_value_is_exact(store: JobsLab) -> None:
    run_ids = store.submit(seeds=[0, 1])
    for run_id in run_ids:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
    assert {attempt.executor for run_id in run_ids for attempt in store.attempts(run_id)} == {"ray"}


def test_a_failure_keeps_its_traceback_and_the_others_go_on(store: JobsLab) -> None:
    run_ids = store.submit("explode", seeds=[0, 1])
    runs = [store.wait_for(run_id, "completed", "failed") for run_id in run_ids]
    assert [run.status for run in runs] == ["completed", "completed", "failed", "failed"]
    assert runs[-1].error == "ZeroDivisionError: one over nothing"
    assert "in explode" in (store.attempts(runs[-1].id)[0].traceback or "")


def test_a_cancelled_run_saves_its_state_and_its_worker_ends(store: JobsLab) -> None:
    run_id = store.one(**store.gated(8))
    store.at_step(run_id, 7)
    worker = store.worker(run_id)
    store.ask(RequestKind.CANCEL, run_id)
    store.wait_for(run_id, "cancelled")
    assert not worker.alive()
    with Reader(store.paths) as reader:
        assert [checkpoint.step for checkpoint in reader.checkpoints(run_id)] == [5, 7]


def test_real_training_reports_and_completes(store: JobsLab) -> None:
    run_id = store.one("real", **TINY, train=TINY_TRAIN)
    run = store.wait_for(run_id, "completed", "failed")
    assert (run.status, run.step) == ("completed", 4), f"{run}\n{store.attempts(run_id)}"
    with Reader(store.paths) as reader:
        losses = reader.series(run_id, "train/loss")
        facts = reader.run_facts(run_id)
        checkpoints = reader.checkpoints(run_id)
    assert list(losses.steps) == [1, 2, 3, 4]
    assert all(math.isfinite(value) for value in losses.values)
    assert "valid/accuracy" in run.metrics
    assert "hardware" in facts
    assert (store.paths.run_dir(run_id) / checkpoints[-1].path / "model.safetensors").is_file()


def test_the_next_controller_finds_the_actors_of_one_that_was_killed(store: JobsLab) -> None:
    run_ids = store.submit(**store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    workers = [store.worker(run_id) for run_id in run_ids]
    store.kill_controller()
    assert all(worker.alive() for worker in workers)
    store.opened(run_ids[0])  # this one goes on, and ends, while no controller lives
    eventually(lambda: not workers[0].alive(), "the end of a worker")
    store.start()
    store.opened(run_ids[1])
    for run_id in run_ids:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        assert len(store.attempts(run_id)) == 1


def test_a_store_starts_a_head_of_its_own_on_loopback_and_ends_it_when_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # in the controller: neither Ray nor we may warn there
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")  # as if there were two GPUs, which nobody touches
    with lab(tmp_path / "home", "ray", idle_s=1.0) as own:
        run_id = own.one(**own.gated(8), resources={"gpus": 0.5})
        without = own.one(resources={"gpus": 0.0})
        own.wait_for(without, "completed")
        own.at_step(run_id, 7)
        with Reader(own.paths) as reader:
            assert reader.run_facts(run_id)["hardware"]["gpus"] in ("5", "7")
            assert reader.run_facts(without)["hardware"]["gpus"] == ""
        record = read_record(own.paths)
        assert record is not None
        assert record.cluster is not None
        cluster = ClusterRecord.from_json(record.cluster)
        assert own.paths.token.stat().st_mode & 0o777 == 0o600
        processes = members(cluster)
        assert {"gcs_server", "raylet"} <= {process.name() for process in processes}
        # Ray's agents hide their environment; the worker below the actor carries the mark too
        assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= {process.name() for process in processes}
        assert own.worker(run_id).pid in {process.pid for process in processes}
        assert listening(processes) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        own.opened(run_id)
        own.wait_for(run_id, "completed")
        own.check_exact(run_id)
        eventually(lambda: not controller_alive(own.paths), "the end of an idle controller")
        assert members(cluster) == []
        assert not Path(cluster.temp_dir).exists()
        eventually(lambda: processes_of(own.paths) == [], "the end of every process")
        assert "Traceback" not in own.log


def listening(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses that processes listen on."""
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
