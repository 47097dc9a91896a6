"""The papers' tables as presets: they are planned at every scale, name their trials truly, and train when tiny."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.presets import find_ablation, preset_names
from workers.ablation import load_ablation, plan_runs

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call

PAPERS = [name for name in preset_names() if "/" in name]
SCALES = ["full", "small", "tiny"]


def test_the_tables_are_there() -> None:
    tables = {f"paper/table-{number}" for number in (1, 6, 7, 8, 9, 10, 11)}
    assert tables | {"zoology/mqar", "mamba2/mqar"} <= set(PAPERS)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PAPERS)
def test_a_dry_run_shows_sizes_and_differences(call: Call, name: str, scale: str) -> None:
    done = call("submit", name, "--dry-run", *([] if scale == "full" else ["--scale", scale]))
    assert done.code == 0, done.stderr
    spec = load_ablation(find_ablation(name), scale=None if scale == "full" else scale)
    trials = len(plan_runs(spec)) // len(spec.seeds)
    assert len(done.stdout.splitlines()) == trials + 1
    assert "Paper: " in done.stderr
    assert done.stderr.count("Differs: ") == len(spec.differences)
    assert scale == "full" or spec.differences


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_numbers_and_claims_name_trials(name: str) -> None:
    spec = load_ablation(find_ablation(name))
    assert spec.paper is not None
    left_out = set(spec.paper.best_over)
    assert left_out <= {axis.title for axis in spec.axes}
    labels = {
        " · ".join(label for title, label in run.trial.labels.items() if title not in left_out)
        for run in plan_runs(spec)
    }
    named = set(spec.paper.values) | {label for claim in spec.paper.expect for label in claim.labels()}
    assert named <= labels
    assert spec.paper.expect
    if name.startswith("paper/"):
        assert set(spec.paper.values) == labels


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_own_numbers_bear_out_its_claims(name: str) -> None:
    """A claim that the paper's numbers contradict would be a slip in the file. Bounds on other data are left out."""
    from workers.published import judge

    paper = load_ablation(find_ablation(name)).paper
    assert paper is not None
    for claim in paper.expect:
        values = paper.also.get(claim.metric, {}) if claim.metric else paper.values
        means = {label: value * paper.factor for label, value in values.items()}
        if paper.comparable or claim.rising or claim.widening:
            slack = claim.slack if paper.comparable else max(claim.slack, 0.02)  # perplexity repeats to 0.02
            assert judge(claim.model_copy(update={"slack": slack}), means).outcome == "holds", claim.claim


def test_parameter_counts_of_tables_9_and_10_are_in_the_plan(call: Call) -> None:
    """With bytes the embedding is smaller by 50,001 rows of 1024 than the paper's."""
    plan = call("submit", "paper/table-9", "--dry-run", "--json").json["trials"]
    printed = [358.9, 359.1, 359.3, 359.7, 360.5, 362.1, 365.2, 371.5]
    assert [round((trial["parameters"] + 50_001 * 1024) / 1e6, 1) for trial in plan] == printed


@pytest.mark.parametrize("name", PAPERS)
def test_the_tiny_version_trains(name: str, tmp_path: Path) -> None:
    from workers.training import MemorySink, RunContext, run_trial

    spec = load_ablation(find_ablation(name), ["train.threads=1", "train.device=cpu"], scale="tiny")
    for index, planned in enumerate(plan_runs(spec)):
        sink = MemorySink()
        result = run_trial(planned.spec, RunContext(f"run-{index}", 1, tmp_path / str(index), sink))
        assert result.status == "completed", planned.trial.label
        assert {spec.metric.key, *spec.metric.also} <= set(result.metrics)
