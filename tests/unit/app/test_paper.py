"""`mambalab table --check`: the paper's numbers beside ours, and its claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from storage.home import HomePaths
from storage.records import AttemptEnd, NewAblation, NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
from storage.status import AttemptStatus

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

PROVENANCE = NewProvenance(
    command="x", directory="/", hostname="h", python="3", versions={}, git_sha=None, git_dirty=False, git_diff=None
)
PAPER: dict[str, Any] = {
    "source": "Someone 2023, Table 1",
    "factor": 0.01,
    "best_over": ["train.lr"],
    "values": {"s6": 99.0, "s4d": 40.0, "hyena": 30.0},
    "expect": [
        {"claim": "s6 solves it", "of": ["s6"], "above": 0.95},
        {"claim": "s6 beats s4d", "rising": ["s4d", "s6"]},
        {"claim": "hyena is worst", "rising": ["hyena", "s4d"]},
    ],
}


def fill(home: HomePaths, accuracies: dict[tuple[str, str], float], **paper: Any) -> None:
    """Store one completed run for each (layer, rate)."""
    spec = {"name": "study", "paper": {**PAPER, **paper}}
    with Repository(home) as store:
        submitted = store.submit(
            ablation=NewAblation("study", "Which?", spec, "valid/accuracy", "max", (), ("layer", "train.lr"), (0,)),
            runs=[
                NewRun(
                    name="study",
                    spec={"model": {"inner": layer}, "seed": 0},
                    spec_hash=f"{layer}-{rate}",
                    trial_index=index,
                    trial_label=f"{layer} · {rate}",
                    axis_values={"layer": layer, "train.lr": rate},
                    axis_labels={"layer": layer, "train.lr": rate},
                    seed=0,
                    total_steps=10,
                    max_attempts=1,
                )
                for index, (layer, rate) in enumerate(accuracies)
            ],
            provenance=PROVENANCE,
        )
        for run_id, accuracy in zip(submitted.run_ids, accuracies.values(), strict=True):
            assert store.begin_attempt(run_id, executor="inline", now=1.0) == 1
            rows = [(2.0, 10, {"valid/accuracy": accuracy, "valid/accuracy@64": accuracy / 2})]
            assert store.record(run_id, 1, RecordBatch(rows=rows, notes=[], cursor=1, heartbeat_at=2.0))
            assert store.finish_attempt(run_id, 1, AttemptEnd(AttemptStatus.COMPLETED, 3.0, reason="steps", step=10))


def test_the_best_rate_stands_beside_the_papers_number(call: Call, home: HomePaths) -> None:
    fill(home, {("s6", "0.1"): 0.5, ("s6", "0.01"): 0.97, ("s4d", "0.1"): 0.45})
    done = call("table", "study", "--check")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["trial", "paper", "ours", "difference", "ranks"]
    assert lines[1] == ["s6", "0.99", "0.970 (1)", "-0.020", "1 / 1"]
    assert lines[2] == ["s4d", "0.4", "0.450 (1)", "+0.050", "2 / 2"]
    assert lines[3] == ["hyena", "0.3", "–", "–", "3 / –"]
    assert [line[0] for line in lines[5:]] == ["holds", "holds", "unknown"]
    assert "Someone 2023, Table 1" in done.stderr
    assert done.code == 0


def test_a_claim_that_fails_is_the_exit_code(call: Call, home: HomePaths) -> None:
    fill(home, {("s6", "0.1"): 0.3, ("s4d", "0.1"): 0.45})
    done = call("table", "study", "--check")
    assert done.code == 1
    assert "fails\ts6 beats s4d\ts6 0.3 is not above s4d 0.45" in done.stdout


def test_other_data_leaves_ranks_and_no_difference(call: Call, home: HomePaths) -> None:
    fill(home, {("s6", "0.1"): 0.3, ("s4d", "0.1"): 0.45}, comparable=False)
    done = call("table", "study", "--check")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["trial", "paper", "ours", "ranks"]
    assert lines[1] == ["s6", "99", "0.300 (1)", "1 / 2"]
    assert "compare ranks" in done.stderr


def test_json_has_every_digit_and_null_for_what_is_missing(call: Call, home: HomePaths) -> None:
    fill(home, {("s6", "0.1"): 0.96})
    answer = call("table", "study", "--check", "--json").json
    by_label = {trial["label"]: trial for trial in answer["trials"]}
    assert by_label["s6"]["difference"] == pytest.approx(-0.03)
    assert by_label["hyena"]["mean"] is None
    assert [claim["outcome"] for claim in answer["claims"]] == ["holds", "unknown", "unknown"]


def test_markdown_holds_both_tables_and_the_source(call: Call, home: HomePaths) -> None:
    fill(home, {("s6", "0.1"): 0.97, ("s4d", "0.1"): 0.45})
    lines = call("table", "study", "--check", "--format", "md").stdout.splitlines()
    assert lines[:3] == [
        "| trial | paper | ours | difference | ranks |",
        "| --- | --- | --- | --- | --- |",
        "| s6 | 0.99 | 0.970 (1) | -0.020 | 1 / 1 |",
    ]
    assert "| holds | s6 solves it | s6 0.97 |" in lines
    assert lines[-1].endswith("Paper: Someone 2023, Table 1")
    assert call("table", "study", "--check", "--format", "latex").code == 2


def test_other_metrics_of_the_paper_have_a_table_of_their_own(call: Call, home: HomePaths) -> None:
    also = {"valid/accuracy@64": {"s6": 50.0, "hyena": 10.0}, "valid/accuracy@128": {"s4d": 20.0}}
    fill(home, {("s6", "0.1"): 0.97, ("s4d", "0.1"): 0.45}, also=also)
    text = [line.split("\t") for line in call("table", "study", "--check").stdout.splitlines()]
    assert ["paper / ours", "s6", "s4d", "hyena"] in text
    assert ["valid/accuracy@64", "0.5 / 0.485", "– / 0.225", "0.1 / –"] in text
    assert ["valid/accuracy@128", "– / –", "0.2 / –", "– / –"] in text
    markdown = call("table", "study", "--check", "--format", "md").stdout
    assert "| valid/accuracy@64 | 0.5 / 0.485 | – / 0.225 | 0.1 / – |" in markdown.splitlines()
    (s6, *_), _ = call("table", "study", "--check", "--json").json["also"].values()
    assert (s6["label"], s6["paper"], s6["mean"]) == ("s6", 0.5, 0.485)


def test_an_ablation_without_a_paper_cannot_be_checked(call: Call, lab: Lab) -> None:
    done = call("table", "demo", "--check")
    assert done.code == 2
    assert "demo quotes no paper" in done.stderr
