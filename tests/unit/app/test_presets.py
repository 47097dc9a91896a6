"""The ablations that come along, and `mambalab task show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.presets import find_ablation, preset_names
from workers.ablation import load_ablation, plan_runs
from workers.specs import flatten

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call


def test_the_themes_of_the_paper_are_there() -> None:
    assert {"demo", "copying", "selective-copying", "induction-heads", "text"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_whole(name: str) -> None:
    spec = load_ablation(find_ablation(name))
    plan = plan_runs(spec)
    assert spec.name == name
    assert "?" in spec.question
    assert spec.axes
    assert len(spec.seeds) >= 2, "a preset shows a spread over seeds"
    assert len(plan) == len(plan_runs(spec.model_copy(update={"seeds": (0,)}))) * len(spec.seeds)


@pytest.mark.parametrize("name", preset_names())
def test_the_metrics_are_ones_that_the_tasks_report(name: str) -> None:
    import torch

    from workers.tasks import EvalTotals, build_task

    spec = load_ablation(find_ablation(name))
    totals = EvalTotals()
    totals.add(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64))
    reported = [
        set(build_task(run.spec.task).metrics(totals)) for run in plan_runs(spec.model_copy(update={"seeds": (0,)}))
    ]
    key, _, length = spec.metric.key.partition("@")  # a metric at another length than the trained one
    assert all(key in metrics for metrics in reported)
    assert all(not length or int(length) in run.spec.train.eval_lengths for run in plan_runs(spec))
    assert set(spec.metric.also) <= set.union(*reported)


def test_presets_are_listed(call: Call) -> None:
    listed = {preset["name"]: preset for preset in call("presets", "--json").json}
    assert listed["text"]["axes"] == ["selective"]
    assert "selective-copying\tmodel.gate x model.inner\t3\t" in call("presets").stdout


def test_a_preset_can_be_printed_to_copy_and_change(call: Call) -> None:
    assert call("presets", "text").stdout == find_ablation("text").read_text(encoding="utf-8")
    assert call("presets", "txt").code == 2


def test_every_variant_of_a_table_of_the_paper_differs_as_meant() -> None:
    runs = {run.trial.label: flatten(run.spec.model_dump()) for run in plan_runs(load_ablation(find_ablation("text")))}
    selective = {
        label: "".join(part for part in ("dt", "b", "c") if config[f"model.selective_{part}"])
        for label, config in runs.items()
    }
    assert selective == {"none": "", "B": "b", "C": "c", "dt": "dt", "dt, B and C": "dtbc"}


@pytest.mark.parametrize("name", ["copying", "selective-copying", "induction-heads", "text"])
def test_an_example_of_a_task_is_shown(call: Call, name: str) -> None:
    done = call("task", "show", name)
    assert done.code == 0
    assert done.stdout.startswith(f"{name}: ")
    assert call("task", "show", name, "--seed", "1").stdout != done.stdout
