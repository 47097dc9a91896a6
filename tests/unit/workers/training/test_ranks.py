"""Two processes that share each batch are the one process that has it whole. They are real, and started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch.distributed as dist

from storage.home import AttemptPaths
from workers.errors import SpecError
from workers.jobs.attempt import AttemptSpec
from workers.jobs.launch import with_this_code
from workers.jobs.worker import STOP_FILE
from workers.parallel import processes
from workers.specs import MqarSpec, RunSpec
from workers.training import MemorySink, RunContext, run_trial
from workers.training.ranks import Ranks

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

Rows = dict[tuple[int, str], float]
MIXED = MqarSpec(seqlen=24, kv_pairs=(1, 6), vocab=16)
"""Sequences with one supervised position and with six: the ranks' shares weigh differently."""


class Together:
    """What torchrun's processes left behind."""

    def __init__(self, attempt: AttemptSpec, ended: subprocess.CompletedProcess[str]) -> None:
        self.folder, self.exit_code, self.said = Path(attempt.run_directory), ended.returncode, ended.stderr
        paths = AttemptPaths(attempt.path)
        lines = paths.spool.read_text().splitlines() if paths.spool.exists() else []
        self.lines = [json.loads(line) for line in lines]
        self.result: dict[str, Any] = json.loads(paths.result.read_text())


Train = Callable[..., Together]


@pytest.fixture
def together(tmp_path: Path) -> Train:
    def train(spec: RunSpec, *, number: int = 1, stop: bool = False, processes: int = 2) -> Together:
        directory = tmp_path / "attempts" / str(number)
        directory.mkdir(parents=True)
        attempt = AttemptSpec("run", number, str(tmp_path), str(directory), spec.model_dump(mode="json"))
        AttemptPaths(directory).spec.write_text(json.dumps(attempt.to_json()))
        if stop:
            (directory / STOP_FILE).touch()
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, "-m", "workers.jobs.worker", str(directory)]
        environment = {**with_this_code(os.environ), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        return Together(attempt, ended)

    return train


def rows(lines: list[dict[str, Any]]) -> Rows:
    return {
        (line["step"], key): value
        for line in lines
        if line["kind"] == "metrics"
        for key, value in line["values"].items()
        if not key.endswith("_per_s") and not key.startswith("system/")
    }


def notes(ran: Together, name: str) -> list[dict[str, Any]]:
    return [line["payload"] for line in ran.lines if line["kind"] == "note" and line["name"] == name]


def of_mqar(spec: RunSpec) -> RunSpec:
    return spec.model_copy(update={"task": MIXED})


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "large": {"accumulate": 2, "fused_loss": "on", "activation_checkpointing": "block", "async_checkpoints": "on"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_two_processes_train_as_one(
    together: Train, execute: Execute, make_spec: MakeSpec, settings: dict[str, Any]
) -> None:
    """Only the order of fp32 sums differs: the tolerance is that of `test_accumulate`. A checkpoint of two is one like any other."""
    common: dict[str, Any] = {"steps": 10, "batch_size": 8, "log_every": 1, "eval_every": 5, "checkpoint_every": 5}
    alone = execute(of_mqar(make_spec(**common, **settings)))
    ran = together(of_mqar(make_spec(**common, **settings, data_parallel=2)))
    assert ran.exit_code == 0, ran.said
    found = rows(ran.lines)
    assert found.keys() == alone.curve().keys() >= {(10, "train/grad_norm"), (10, "train/accuracy"), (10, "valid/loss")}
    assert found == pytest.approx(alone.curve(), rel=1e-4)
    assert [note["step"] for note in notes(ran, "checkpoint")] == [5, 10]
    assert notes(ran, "data_parallel") == [{"processes": 2, "backend": "gloo", "started_by": "torchrun"}]
    assert len(notes(ran, "hardware")) == 1  # one process reports
    assert ran.result["status"] == "completed"
    assert sorted(path.name for path in (ran.folder / "checkpoints").iterdir()) == ["step-000005", "step-000010"]
    longer = of_mqar(make_spec(**{**common, "steps": 13}, **settings))
    ended = execute(longer, folder=ran.folder, attempt=2)
    assert ended.result.resumed_from == 10
    assert ended.curve()[13, "train/loss"] == pytest.approx(execute(longer).curve()[13, "train/loss"], rel=1e-4)


def test_stopped_they_stop_together(together: Train, make_spec: MakeSpec) -> None:
    stopped = together(of_mqar(make_spec(steps=6, log_every=1, batch_size=8, data_parallel=2)), stop=True)
    assert stopped.result["status"] == "stopped"
    assert stopped.exit_code != 0


def test_what_fails_fails_for_all(together: Train, make_spec: MakeSpec) -> None:
    ran = together(make_spec(lr=1e30, clip_grad_norm=0.0, log_every=2, data_parallel=2))
    assert ran.exit_code != 0
    assert (ran.result["status"], ran.result["reason"]) == ("failed", "diverged")


@pytest.fixture
def a_group_of_one(tmp_path: Path) -> Iterator[Ranks]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield Ranks()
    dist.destroy_process_group()


def test_another_number_of_processes_than_asked_for_is_refused(
    a_group_of_one: Ranks, make_spec: MakeSpec, tmp_path: Path
) -> None:
    context = RunContext("run", 1, tmp_path, MemorySink(), ranks=a_group_of_one)
    with pytest.raises(SpecError, match="1 processes were started for a run that 3 are to train"):
        run_trial(make_spec(steps=2, batch_size=12, data_parallel=3), context)


def test_one_alone_computes_all_and_says_so(execute: Execute, make_spec: MakeSpec) -> None:
    alone = execute(make_spec(steps=2, data_parallel=2))
    assert alone.curve() == execute(make_spec(steps=2)).curve()
    assert [fact["processes"] for fact in alone.sink.facts("data_parallel")] == [1]
    assert "started alone" in str(alone.sink.facts("warning"))


TRAIN_2: dict[str, Any] = {"data_parallel": 2}


@pytest.mark.parametrize(
    ("tree", "count"),
    [
        ({}, 1),
        ({"train": TRAIN_2}, 2),
        ({"resources": {"gpus": 4.0}}, 4),
        ({"resources": {"gpus": 0.5}}, 1),
        ({"train": TRAIN_2, "resources": {"gpus": 0.0}}, 2),
    ],
)
def test_how_many_processes(tree: dict[str, Any], count: int) -> None:
    assert processes(tree) == count


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"train": {**TRAIN_2, "batch_size": 9}}, "batch_size must be a multiple of 2"),
        ({"train": {**TRAIN_2, "batch_size": 6, "accumulate": 2}}, "a multiple of 4 with train.accumulate 2, got 6"),
        ({"train": TRAIN_2, "model": {"dropout": 0.1}}, "model.dropout is 0.1"),
        ({"train": TRAIN_2, "resources": {"gpus": 3.0}}, "resources.gpus must be 2 or 0, got 3"),
        ({"resources": {"gpus": 1.5}}, ""),
    ],
)
def test_what_cannot_be_shared_is_refused(tree: dict[str, Any], said: str) -> None:
    if said:
        with pytest.raises(ValueError, match=said):
            RunSpec.model_validate(tree)
    else:
        assert RunSpec.model_validate(tree)
