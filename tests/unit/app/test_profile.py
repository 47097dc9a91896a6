"""`mambalab profile` and `mambalab bench train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workers.training import bench

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

TINY = (
    "task.name=selective-copying",
    "task.context=12",
    "task.memorize=3",
    "model.d_model=8",
    "model.n_layer=1",
    "train.batch_size=2",
    "train.device=cpu",
)
SETS = [word for pair in TINY for word in ("--set", pair)]


def test_a_profile_names_the_longest_first_and_writes_a_trace(call: Call, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    done = call("profile", *SETS, "--steps", "2", "--trace", str(trace), "--json")
    assert done.code == 0
    found: dict[str, Any] = done.json
    times = [kernel["us_per_step"] for kernel in found["kernels"]]
    assert len(times) == 10
    assert times == sorted(times, reverse=True)
    assert found["mode"] == "eager"
    assert found["tokens_per_s"] == pytest.approx(found["steps_per_s"] * 2 * 15)
    assert found["idle"] is None
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_run_of_the_store_is_profiled_with_its_own_spec(
    call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    own = call("profile", lab.runs[2], *SETS, "--steps", "1", "--json")
    assert own.code == 0
    assert own.json["trace"] == f"profile-{lab.runs[2]}.json"
    assert (tmp_path / own.json["trace"]).is_file()
    other = call("profile", *SETS, "--steps", "1", "--json")
    assert own.json["parameters"] != other.json["parameters"]  # that run's layer is S4D


def test_a_profile_as_text_has_a_table(call: Call, tmp_path: Path) -> None:
    done = call("profile", *SETS, "--steps", "1", "--trace", str(tmp_path / "trace.json"))
    assert done.code == 0
    assert done.stdout.splitlines()[0].split() == ["us", "a", "step", "share", "calls", "kernel"]
    assert len(done.stdout.splitlines()) == 11
    assert "operators a step" in done.stderr
    assert "steps/s" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["profile", "nosuchrun"], 3),
        (["profile", *SETS, "--trace", "/no/such/folder/t.json"], 2),
        (["bench", "train", "--case", "x"], 2),
    ],
    ids=["run", "folder", "case"],
)
def test_what_does_not_exist_is_refused(call: Call, lab: Lab, words: list[str], code: int) -> None:
    assert call(*words).code == code


def test_bench_train_prints_and_writes_its_report(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = bench.TrainReport("2026-11-24", {"gpu": "none"}, {}, "abc")
    report.rows.append(bench.TrainRow("induction-heads", "mambalab", "fp32", refused="out of memory"))
    monkeypatch.setattr(bench, "run_bench", lambda *_, **__: report)
    file = tmp_path / "train.json"
    done = call("bench", "train", "--output", str(file))
    assert done.code == 0
    assert "induction-heads" in done.stdout
    assert "out of memory" in done.stdout
    assert json.loads(file.read_text())["rows"][0]["subject"] == "mambalab"
    assert call("bench", "train", "--json").json["commit"] == "abc"
