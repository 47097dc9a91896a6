"""Submitting: what is stored is what was planned, at once, without Ray and torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.home import HomePaths
from storage.queries import Reader
from workers.ablation import AblationSpec, build_ablation, plan_runs
from workers.jobs.detach import daemon_command
from workers.jobs.errors import ControllerError
from workers.jobs.files import write_json
from workers.jobs.launch import with_this_code
from workers.jobs.lock import ControllerLock, ControllerRecord
from workers.jobs.process import ProcessId
from workers.jobs.submission import (
    SubmitOptions,
    check_compatible,
    controller_alive,
    ensure_controller,
    submit_ablation,
    submit_run,
)
from workers.specs import RunSpec, spec_hash

OPTIONS = SubmitOptions(command="mambalab submit study", executor="subprocess", priority=3)


def study(**changes: Any) -> AblationSpec:
    variants = [{"label": "short", "set": {"train.batch_size": 8}}, {"label": "long", "set": {"train.batch_size": 16}}]
    tree: dict[str, Any] = {
        "name": "study",
        "question": "does it matter?",
        "seeds": [0, 1],
        "metric": {"key": "valid/accuracy", "direction": "max", "also": ["train/loss"]},
        "baseline": {"train": {"steps": 7}, "resources": {"cpus": 2, "gpus": 0.5, "max_attempts": 4}},
        "axes": [{"key": "model.d_state", "values": [4, 8]}, {"name": "length", "variants": variants}],
    }
    return build_ablation({**tree, **changes}, source="study.toml")


def test_an_ablation_is_stored_with_all_its_runs_queued(home: HomePaths) -> None:
    spec = study()
    plan = plan_runs(spec)
    submitted = submit_ablation(home, spec, plan, OPTIONS)
    with Reader(home) as reader:
        assert submitted.ablation_id is not None
        ablation = reader.ablation(submitted.ablation_id)
        runs = [reader.run(run_id) for run_id in submitted.run_ids]
        provenance = reader.provenance(runs[0].id)
        specs = [RunSpec.model_validate(reader.run_spec(run.id), strict=False) for run in runs]
    assert (ablation.name, ablation.question, ablation.axes) == (
        "study",
        "does it matter?",
        ("model.d_state", "length"),
    )
    assert (ablation.metric, ablation.direction, ablation.secondary) == ("valid/accuracy", "max", ("train/loss",))
    assert (ablation.seeds, ablation.counts) == ((0, 1), {"queued": 8})
    assert specs == [planned.spec for planned in plan]
    first = runs[0]
    assert first.axis_values == {"model.d_state": 4, "length": "short"}
    assert first.axis_labels == {"model.d_state": "4", "length": "short"}
    assert (first.trial_label, first.seed, first.status) == ("4 · short", 0, "queued")
    assert (first.total_steps, first.max_attempts, first.priority) == (7, 4, 3)
    assert len({run.name for run in runs}) == 8
    assert provenance is not None
    assert provenance.command == "mambalab submit study"


def test_resources_come_from_the_spec_and_auto_is_left_to_the_controller(home: HomePaths) -> None:
    from storage.repository import Repository

    spec = study()
    submit_ablation(home, spec, plan_runs(spec), OPTIONS)
    auto = submit_run(home, RunSpec(seed=3), name="single", options=OPTIONS)
    with Repository(home) as repository:
        queued = {run.id: run for run in repository.queued(now=2e9)}
    single = queued.pop(auto.run_ids[0])
    assert (single.cpus, single.gpus, single.max_attempts) == (1.0, None, 3)
    assert {(run.cpus, run.gpus) for run in queued.values()} == {(2.0, 0.5)}


def test_a_single_run_is_stored_without_ablation(home: HomePaths) -> None:
    spec = RunSpec(seed=5)
    submitted = submit_run(home, spec, name="try", options=OPTIONS)
    assert submitted.ablation_id is None
    with Reader(home) as reader:
        run = reader.run(submitted.run_ids[0])
    assert (run.name, run.seed, run.ablation) == ("try", 5, None)
    assert run.config["seed"] == 5
    assert len(spec_hash(spec)) == 64


def test_the_first_submission_makes_the_store(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path / "deep" / "home")
    submit_run(paths, RunSpec(), name="first", options=OPTIONS)
    with Reader(paths) as reader:
        assert reader.count_runs() == {"queued": 1}


SUBMIT = """
import json, sys
from storage.home import HomePaths
from workers.ablation import build_ablation, plan_runs
from workers.jobs.submission import SubmitOptions, controller_alive, submit_ablation
paths = HomePaths(sys.argv[1])
spec = build_ablation({"name": "study", "seeds": [0, 1]}, source="study.toml")
submit_ablation(paths, spec, plan_runs(spec), SubmitOptions(command="test"))
assert not controller_alive(paths)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_submitting_loads_neither_ray_nor_torch(home: HomePaths) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, str(home.root)],
        capture_output=True,
        text=True,
        check=True,
        env=with_this_code(os.environ),
    )
    assert set(json.loads(done.stdout)) & {"ray", "torch", "triton", "numpy", "textual"} == set()


def test_the_controllers_process_takes_the_lock_before_anything_heavy_is_loaded() -> None:
    code = "import workers.jobs.daemon, sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_this_code(os.environ)
    )
    assert {"ray", "torch", "sqlmodel", "sqlalchemy", "alembic", "pydantic"} & set(eval(done.stdout)) == set()


def test_a_controller_that_cannot_start_is_reported_with_its_last_words(home: HomePaths) -> None:
    options = SubmitOptions(command="test", executor="abacus")
    with pytest.raises(ControllerError, match=r"(?s)exit code 2.*invalid choice: 'abacus'"):
        ensure_controller(home, options)
    assert not controller_alive(home)


def test_no_second_controller_is_started_while_one_is_starting(
    home: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.jobs.lock.SPAWN_PATIENCE_S", 0.0)
    spawned: list[object] = []
    monkeypatch.setattr("workers.jobs.submission.spawn_controller", lambda *words: spawned.append(words))
    other = ControllerLock(home.spawn_lock)
    assert other.acquire()
    try:
        with pytest.raises(ControllerError, match="starting or ending the controller"):
            ensure_controller(home, OPTIONS)
    finally:
        other.release()
    assert spawned == []


def test_the_inline_executor_needs_no_controller(home: HomePaths) -> None:
    with pytest.raises(ControllerError, match="inline"):
        ensure_controller(home, SubmitOptions(command="test", executor="inline"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (SubmitOptions(command="", executor="ray"), "with executor 'subprocess', and 'ray' is asked for"),
        (SubmitOptions(command="", executor="subprocess", address="10.0.0.1:6379"), "--address 10.0.0.1:6379"),
    ],
)
def test_a_living_controller_of_another_kind_refuses_before_anything_is_written(
    home: HomePaths, asked: SubmitOptions, said: str
) -> None:
    lock = ControllerLock(home.controller_lock)
    assert lock.acquire()
    me = ProcessId.of(os.getpid())
    assert me is not None
    record = ControllerRecord(me.pid, me.created, os.uname().nodename, "subprocess", "", None, 0.0)
    write_json(home.controller_json, record.to_json())
    check_compatible(home, OPTIONS)
    with pytest.raises(ControllerError, match=said):
        submit_run(home, RunSpec(), name="refused", options=asked)
    with Reader(home) as reader:
        assert reader.count_runs() == {}
    # what a dead controller said of itself binds nobody
    write_json(home.controller_json, {**record.to_json(), "created": me.created - 100})
    check_compatible(home, asked)
    lock.release()
    check_compatible(home, asked)


def test_the_controllers_command_carries_every_option(home: HomePaths) -> None:
    options = SubmitOptions("", "ray", "127.0.0.1:1", 2.0, trial="a:b", idle_s=5.0, grace_s=6.0)
    command = " ".join(daemon_command(home, options))
    for part in (
        "--executor ray",
        "--address 127.0.0.1:1",
        "--cpus 2.0",
        "--trial a:b",
        "--idle-s 5.0",
        "--grace-s 6.0",
    ):
        assert part in command
