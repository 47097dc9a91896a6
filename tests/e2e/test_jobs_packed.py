"""Runs that train together in one worker: what each is in the store, and what happens to one does not happen to the others."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from storage.queries import Reader
from storage.status import RequestKind
from tests.e2e.jobs_lab import JobsLab, eventually, lab
from workers.jobs.attempt import ENSEMBLE, TRIAL

SEEDS = (0, 1, 2)


@pytest.fixture(params=["subprocess", pytest.param("ray", marks=pytest.mark.e2e)], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsLab]:
    """A store with either executor, whose controller serves all tests that leave it alive."""
    options = {"address": request.getfixturevalue("ray_head").address} if request.param == "ray" else {}
    with lab(tmp_path_factory.mktemp("packed") / "home", request.param, **options) as made:
        yield made


def packed(store: JobsLab, trial: str = "count", *, seeds: Sequence[int] = SEEDS, **baseline: Any) -> list[str]:
    """Queue seeds of one trial that shall run together."""
    return store.submit(trial, seeds=seeds, axes=False, resources={"pack": len(seeds)}, **baseline)


def check_together(store: JobsLab, run_ids: Sequence[str]) -> None:
    """Assert that one process works on all runs, and that the store says so."""
    assert len({store.worker(run_id) for run_id in run_ids}) == 1
    with Reader(store.paths) as reader:
        for index, run_id in enumerate(run_ids):
            assert reader.run_facts(run_id)["ensemble"] == {"members": list(run_ids), "index": index}


def test_seeds_run_in_one_process_and_every_value_is_exact(store: JobsLab) -> None:
    run_ids = packed(store, **store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    check_together(store, run_ids)
    worker = store.worker(run_ids[0])
    for run_id in run_ids:
        store.opened(run_id)
    for run_id in run_ids:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        (attempt,) = store.attempts(run_id)
        assert (attempt.status, attempt.reason, attempt.exit_code) == ("completed", "steps", 0)
        assert store.paths.attempt(run_id, 1).log.exists()
    eventually(lambda: not worker.alive(), "the end of the worker")


def test_what_they_hold_counts_once(store: JobsLab) -> None:
    """Two CPUs hold an ensemble of three runs that ask for one each, and a run beside it."""
    run_ids = packed(store, **store.gated(8))
    alone = store.one(**store.gated(8))
    for run_id in (*run_ids, alone):
        store.at_step(run_id, 7)
    assert store.worker(alone) != store.worker(run_ids[0])
    for run_id in (*run_ids, alone):
        store.opened(run_id)
        store.wait_for(run_id, "completed", "failed")


def test_one_ends_at_once_while_the_others_go_on(store: JobsLab) -> None:
    run_ids = packed(store, **store.gated(8))
    store.opened(run_ids[0])  # the one whose worker this is, as far as the system knows
    store.wait_for(run_ids[0], "completed", "failed")
    store.check_exact(run_ids[0])
    assert store.worker(run_ids[1]).alive()
    for run_id in run_ids[1:]:
        assert store.run(run_id).status == "running"
        store.opened(run_id)
    for run_id in run_ids[1:]:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        assert len(store.attempts(run_id)) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_one_is_cancelled_and_the_others_go_on(store: JobsLab, index: int) -> None:
    run_ids = packed(store, **store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    store.ask(RequestKind.CANCEL, run_ids[index])
    cancelled = store.wait_for(run_ids[index], "cancelled")
    assert (cancelled.step, cancelled.reason) == (7, "cancelled")
    with Reader(store.paths) as reader:
        assert [checkpoint.step for checkpoint in reader.checkpoints(run_ids[index])] == [5, 7]
    others = [run_id for run_id in run_ids if run_id != run_ids[index]]
    for run_id in others:
        store.opened(run_id)
    for run_id in others:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        assert len(store.attempts(run_id)) == 1
    store.opened(run_ids[index])
    store.ask(RequestKind.RETRY, run_ids[index])
    store.wait_for(run_ids[index], "completed")
    store.check_exact(run_ids[index])


def test_one_fails_alone_and_keeps_its_traceback(store: JobsLab) -> None:
    run_ids = packed(store, "explode")
    runs = [store.wait_for(run_id, "completed", "failed") for run_id in run_ids]
    assert [run.status for run in runs] == ["completed", "failed", "completed"]
    assert runs[1].error == "ZeroDivisionError: one over nothing"
    (attempt,) = store.attempts(run_ids[1])
    assert "in explode" in (attempt.traceback or "")
    assert attempt.exit_code == 1


def test_a_killed_worker_loses_every_attempt_and_each_run_goes_on_alone(store: JobsLab) -> None:
    run_ids = packed(store, **store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    worker = store.worker(run_ids[0])
    assert worker.send(signal.SIGKILL)
    for run_id in run_ids:
        store.opened(run_id)
    for run_id in run_ids:
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        attempts = store.attempts(run_id)
        assert [(one.status, one.reason) for one in attempts] == [("lost", "killed"), ("completed", "steps")]
        assert attempts[1].resumed_from == 5
    assert len({store.worker(run_id) for run_id in run_ids}) == len(run_ids)


def test_the_next_controller_finds_an_ensemble_at_work(store: JobsLab) -> None:
    run_ids = packed(store, **store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    store.kill_controller()
    store.opened(run_ids[0])  # this one ends while no controller lives
    result = store.paths.attempt(run_ids[0], 1).result
    eventually(result.exists, "a member's result")
    store.start()
    store.wait_for(run_ids[0], "completed", "failed")
    store.ask(RequestKind.CANCEL, run_ids[1])
    store.wait_for(run_ids[1], "cancelled")
    store.opened(run_ids[2])
    store.wait_for(run_ids[2], "completed", "failed")
    for run_id in (run_ids[0], run_ids[2]):
        store.check_exact(run_id)
        assert len(store.attempts(run_id)) == 1


def test_members_whose_handles_were_never_stored_are_found(store: JobsLab) -> None:
    """As when the controller dies between starting a worker and saying so."""
    run_ids = packed(store, **store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    worker = store.worker(run_ids[0])
    store.kill_controller()
    with closing(sqlite3.connect(store.paths.database, isolation_level=None)) as connection:
        for run_id in run_ids:
            connection.execute("UPDATE attempt SET handle = NULL WHERE run_id = ?", (run_id,))
    store.start()
    for run_id in run_ids:
        store.opened(run_id)
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        assert len(store.attempts(run_id)) == 1
        assert store.worker(run_id) == worker


def test_an_ensemble_that_is_shut_down_comes_back_as_one(store: JobsLab) -> None:
    run_ids = packed(store, **store.gated(8))
    for run_id in run_ids:
        store.at_step(run_id, 7)
    store.down()
    assert [store.run(run_id).status for run_id in run_ids] == ["queued"] * 3
    store.start()
    for run_id in run_ids:
        store.wait(run_id, lambda run: run.attempt == 2, "the second attempt")
    check_together(store, run_ids)
    for run_id in run_ids:
        store.opened(run_id)
        store.wait_for(run_id, "completed", "failed")
        store.check_exact(run_id)
        assert store.attempts(run_id)[1].resumed_from == 7


def test_real_training_in_one_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("real") / "home"
    with lab(root, "subprocess", trial=TRIAL, ensemble=ENSEMBLE) as own:
        run_ids = packed(
            own,
            "valid/loss",
            model={"d_model": 8, "n_layer": 1, "d_state": 4},
            task={"name": "induction-heads", "seqlen": 16, "vocab": 8},
            train={"steps": 12, "batch_size": 2, "log_every": 4, "eval_batches": 1, "threads": 1},
        )
        for run_id in run_ids:
            run = own.wait_for(run_id, "completed", "failed")
            assert (run.status, run.step) == ("completed", 12), own.attempts(run_id)[-1].traceback
        check_together(own, run_ids)
        with Reader(own.paths) as reader:
            for run_id in run_ids:
                assert list(reader.series(run_id, "train/loss").steps) == [1, 4, 8, 12]
                assert [checkpoint.step for checkpoint in reader.checkpoints(run_id)] == [12]
