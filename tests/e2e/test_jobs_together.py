"""Runs that two processes train: queued, followed, stopped and killed as any other run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from storage.queries import Reader
from storage.status import RequestKind
from tests.e2e.jobs_lab import JobsLab, eventually, lab
from workers.jobs.attempt import TRIAL

TINY: dict[str, Any] = {
    "task": {"name": "copying", "context": 8, "memorize": 2},
    "model": {"d_model": 16, "n_layer": 1, "d_state": 4},
    "resources": {"cpus": 2.0},
}
TRAIN: dict[str, Any] = {"batch_size": 4, "eval_batches": 1, "log_every": 1, "data_parallel": 2}
LONG: dict[str, Any] = {**TRAIN, "steps": 10**6, "checkpoint_every": 5}
STARTERS = {"subprocess": "torchrun", "ray": "Ray Train"}


@pytest.fixture(params=["subprocess", pytest.param("ray", marks=pytest.mark.e2e)], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsLab]:
    options = {"address": request.getfixturevalue("ray_head").address} if request.param == "ray" else {}
    with lab(tmp_path_factory.mktemp("together") / "home", request.param, trial=TRIAL, **options) as made:
        yield made


def test_a_run_of_two_processes_completes(store: JobsLab) -> None:
    run_id = store.one("valid/loss", **TINY, train={**TRAIN, "steps": 4})
    run = store.wait_for(run_id, "completed", "failed")
    assert (run.status, run.step) == ("completed", 4), f"{run}\n{store.attempts(run_id)[0].traceback}"
    with Reader(store.paths) as reader:
        facts = reader.run_facts(run_id)
        assert list(reader.series(run_id, "train/loss").steps) == [1, 2, 3, 4]
    starter = STARTERS[store.options.executor or ""]
    assert facts["data_parallel"] == {"processes": 2, "backend": "gloo", "started_by": starter}


def test_killed_it_is_tried_again_and_cancelled_it_saves_its_state(store: JobsLab) -> None:
    """Whoever started the processes is killed: they end too, or they would hold the GPUs that the next attempt is given.

    Cancelled is what follows: each start of such a run takes ten seconds.
    """
    run_id = store.one("valid/loss", **TINY, train=LONG)
    store.at_step(run_id, 7)
    worker = store.worker(run_id).process()
    tree = family(worker)
    assert worker is not None
    worker.kill()
    eventually(lambda: not any(lives(process) for process in tree), "the end of every process")
    known = store.wait(run_id, lambda run: run.attempt == 2, "the second attempt").step
    store.at_step(run_id, known + 1)
    first, second = store.attempts(run_id)
    assert first.status == "lost"
    assert second.resumed_from is not None
    assert 5 <= second.resumed_from <= known  # the newest one may be on the disk and not yet in the store
    tree = family(store.worker(run_id).process())
    store.ask(RequestKind.CANCEL, run_id)
    store.wait_for(run_id, "cancelled")
    eventually(lambda: not any(lives(process) for process in tree), "the end of every process")
    with Reader(store.paths) as reader:
        saved = [checkpoint.step for checkpoint in reader.checkpoints(run_id)]
        steps = reader.series(run_id, "train/loss").steps
    assert saved[-1] == steps[-1] > known
    assert list(steps) == list(range(1, len(steps) + 1))  # no row is missing where the second attempt took over


def family(process: psutil.Process | None) -> list[psutil.Process]:
    """Return a worker and all that it has started itself."""
    assert process is not None
    return [process, *process.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
