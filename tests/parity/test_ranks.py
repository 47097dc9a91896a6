"""Processes that share a run's batches on GPUs: gradients are added up by NCCL inside the recorded step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from storage.home import AttemptPaths
from tests.parity.test_captured_step import INDUCTION, MAMBA, curve, execute, make
from workers.jobs.attempt import AttemptSpec
from workers.jobs.launch import with_this_code
from workers.training import MemorySink

if TYPE_CHECKING:
    from tests.parity.test_captured_step import Execute

__all__ = ["execute"]  # a fixture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning"),
]

DRY: dict[str, Any] = {**MAMBA, "dropout": 0.0}


ALONE = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from workers.specs import RunSpec
from workers.training import MemorySink, RunContext, run_trial
from workers.training.ranks import Ranks
folder, sink = Path(sys.argv[2]), MemorySink()
dist.init_process_group("nccl", init_method=f"file://{folder}/group", rank=0, world_size=1)
spec = RunSpec.model_validate_json(sys.argv[1])
run_trial(spec, RunContext("run", 1, folder / "run", sink, ranks=Ranks()))
(folder / "sink.json").write_text(json.dumps([sink.rows, sink.notes]))
"""
"""A group of one process, in a process of its own: one that waited for ever would take no other test along."""


@pytest.mark.parametrize("train", [{}, {"accumulate": 2}, {"fused_loss": "on"}], ids=["plain", "accumulate", "fused"])
def test_a_graph_holds_the_sum_over_ranks(execute: Execute, tmp_path: Path, train: dict[str, Any]) -> None:
    """Of one rank alone the sum is what there was, bit for bit."""
    spec = make(DRY, INDUCTION, capture="on", **train)
    command = [sys.executable, "-c", ALONE, spec.model_dump_json(), str(tmp_path)]
    ended = subprocess.run(
        command, env=with_this_code(os.environ), capture_output=True, text=True, timeout=90, check=False
    )
    assert (tmp_path / "sink.json").exists(), ended.stderr[-2000:]
    rows, notes = json.loads((tmp_path / "sink.json").read_text())
    sink = MemorySink([(step, row) for step, row in rows], [(kind, payload) for kind, payload in notes])
    assert [(fact["mode"], fact["steps_per_replay"]) for fact in sink.facts("step")] == [("captured", 1)]
    assert sink.facts("data_parallel")[0]["backend"] == "nccl"
    assert curve(sink) == execute(make(DRY, INDUCTION, capture="off", **train)).curve()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_as_one(execute: Execute, tmp_path: Path) -> None:
    """Only the order of fp32 sums differs."""
    directory = tmp_path / "attempt"
    directory.mkdir()
    spec = make(DRY, INDUCTION, data_parallel=2, capture="on")
    attempt = AttemptSpec("run", 1, str(tmp_path), str(directory), spec.model_dump(mode="json"))
    AttemptPaths(directory).spec.write_text(json.dumps(attempt.to_json()))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "workers.jobs.worker"]
    command = [sys.executable, *launch, str(directory)]
    ended = subprocess.run(
        command, env=with_this_code(os.environ), capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = [json.loads(line) for line in AttemptPaths(directory).spool.read_text().splitlines()]
    losses = {line["step"]: line["values"]["train/loss"] for line in lines if "train/loss" in line.get("values", {})}
    whole = execute(make(DRY, INDUCTION)).sink.series("train/loss")
    assert losses == pytest.approx(whole, rel=1e-3)
