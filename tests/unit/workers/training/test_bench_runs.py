"""Measuring whole runs: real processes of tiny runs on a CPU, and what is made of their figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from workers.training import bench_runs
from workers.training.bench_runs import RunsError, RunsReport, RunsRow, measure, protocol, run_bench


def row(seeds: tuple[int, ...], seconds: float, training: float) -> RunsRow:
    stages = {"start": 2.0, "training": training}
    return RunsRow(seeds, 100, seconds, stages, 0.5, 50.0, 300.0, {str(seed): {} for seed in seeds})


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("on_a_cpu")
def test_whole_runs_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    told: list[str] = []
    kept: list[int] = []
    report = run_bench(2, quick=True, commit="abc", progress=told.append, keep=lambda one: kept.append(len(one.rows)))
    assert told == ["seed 0 alone", "2 seeds at once"]
    assert kept == [1, 2]
    alone, together = report.rows
    assert (alone.seeds, together.seeds) == ((0,), (0, 1))
    for found in report.rows:
        assert {"start", "preparation", "training", "evaluation", "checkpoints", "lengths"} <= set(found.stages)
        assert all(value >= 0 for value in found.stages.values())
        rounding = 0.0005 * (len(found.stages) + 1)  # every figure is given in milliseconds
        assert sum(found.stages.values()) <= found.seconds + rounding
        assert found.stages["start"] > 0.1  # Python and PyTorch
        assert found.exit >= 0
        assert found.steps_per_s > 0
        assert {"valid/accuracy", "valid/accuracy@16", "valid/accuracy@64"} <= set(found.metrics["0"])
    assert alone.metrics["0"] == pytest.approx(together.metrics["0"], rel=1e-3)
    assert report.times == pytest.approx(2 * alone.seconds / together.seconds)
    report.write(tmp_path / "runs.json")
    written = json.loads((tmp_path / "runs.json").read_text())
    assert (written["bench"], written["commit"], len(written["rows"])) == ("runs", "abc", 2)
    assert written["times"] == report.times


def test_single_runs_count_by_their_mean() -> None:
    report = RunsReport("2026-11-25", {"gpu": "none"}, {}, "abc")
    report.rows += [row((0,), 10.0, 6.0), row((1,), 14.0, 10.0)]
    report.settle()
    incomplete = report.times
    assert incomplete is None
    assert "nothing was measured to its end" in report.table()
    report.rows.append(row((0, 1, 2, 3), 16.0, 8.0))
    report.settle()
    assert report.times == 3.0
    lines = {line.split()[0]: line.split()[1:] for line in report.table().splitlines()}
    assert lines["whole"] == ["12.00", "48.00", "16.00", "3.00"]
    assert lines["training"] == ["8.00", "32.00", "8.00", "4.00"]
    assert "mean of 2" in report.table()
    assert lines["runs"][-2:] == ["300.0", "900.0"]


def test_what_a_process_fails_with_is_told() -> None:
    spec = protocol(gpu=False, quick=True)
    nan = spec.model_copy(update={"train": spec.train.model_copy(update={"lr": 1e30, "clip_grad_norm": 0.0})})
    with pytest.raises(RunsError, match=r"seeds \(0, 1\) ended with code 1 and said: .*NonFiniteLossError"):
        measure(nan, (0, 1))


@pytest.mark.parametrize(
    ("at_once", "alone", "steps", "said"),
    [
        (1, 1, None, "at least 2 runs"),
        (4, 0, None, "1 to 4 single runs"),
        (4, 5, None, "1 to 4 single runs"),
        (4, 1, 0, "at least 1 step"),
    ],
)
def test_nothing_is_run_of_what_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, at_once: int, alone: int, steps: int | None, said: str
) -> None:
    monkeypatch.setattr(bench_runs, "measure", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(ValueError, match=said):
        run_bench(at_once, alone, steps=steps)


def test_a_gpu_runs_the_papers_protocol_and_a_quick_one_the_start_of_it() -> None:
    whole, quick = protocol(gpu=True), protocol(gpu=True, quick=True)
    assert (whole.train.steps, whole.train.eval_every, max(whole.train.eval_lengths)) == (204800, 8192, 2**20)
    assert (quick.train.steps, max(quick.train.eval_lengths)) == (4096, 4096)
    assert (quick.model, quick.task) == (whole.model, whole.task)
    assert protocol(gpu=True, steps=10).train.eval_every == 1
