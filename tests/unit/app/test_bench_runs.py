"""`mambalab bench runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.presets import find_ablation
from workers.ablation import load_ablation, plan_runs
from workers.training import bench_runs

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Measure nothing; what is asked for is kept."""
    found: dict[str, Any] = {}

    def answer(at_once: int, alone: int, **options: Any) -> bench_runs.RunsReport:
        found.update(options, at_once=at_once, alone=alone)
        report = bench_runs.RunsReport("2026-11-25", {"gpu": "none"}, {}, "abc")
        for seeds, seconds in (((0,), 10.0), ((0, 1), 8.0)):
            report.rows.append(bench_runs.RunsRow(seeds, 5, seconds, {"training": 4.0}, 0.1, 9.0, 1.0, {}))
            report.settle()
            options["keep"](report)
        return report

    monkeypatch.setattr(bench_runs, "run_bench", answer)
    return found


def test_it_prints_and_writes_its_report(call: Call, asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    done = call("bench", "runs", "--at-once", "2", "--steps", "5", "--quick", "--output", str(file))
    assert done.code == 0, done.stderr
    assert (asked["at_once"], asked["alone"], asked["steps"], asked["quick"]) == (2, 1, 5, True)
    assert "2 at once" in done.stdout
    assert json.loads(file.read_text())["times"] == 2.5
    assert call("bench", "runs", "--json").json["rows"][1]["seeds"] == [0, 1]
    assert (asked["at_once"], asked["steps"]) == (8, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at-once", "1"], "at least 2"),
        (["--alone", "9"], "1 to 8 single runs"),
        (["--steps", "0"], "at least 1 step"),
        (["--output", "/no/such/folder/runs.json"], "/no/such/folder is not a folder"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr(bench_runs, "measure", lambda *_: pytest.fail("a process was started"))
    done = call("bench", "runs", *words)
    assert done.code == 2
    assert said in done.stderr


def test_a_failed_run_ends_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise bench_runs.RunsError("the process ended")

    monkeypatch.setattr(bench_runs, "run_bench", fail)
    done = call("bench", "runs")
    assert done.code == 1
    assert "the process ended" in done.stderr


def test_what_it_runs_is_the_presets_row() -> None:
    planned = plan_runs(load_ablation(find_ablation("paper/table-11")))
    row = next(one.spec for one in planned if one.trial.label == "Mamba")
    ours = bench_runs.protocol(gpu=True)
    train = {"log_every": row.train.log_every, "device": row.train.device}
    assert ours.train.model_copy(update=train) == row.train
    assert (ours.model, ours.task) == (row.model, row.task)
