"""Claims of a paper against means, and an ablation at its scales."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from workers.ablation import build_ablation, plan_runs
from workers.errors import SpecError
from workers.published import Expectation, Published, judge

MEANS = {"a": 1.0, "b": 2.0, "c": 2.5, "missing": math.nan}


@pytest.mark.parametrize(
    ("claim", "outcome"),
    [
        ({"of": ["a", "b"], "above": 0.5, "below": 2.1}, "holds"),
        ({"of": ["a", "b"], "above": 1.0}, "fails"),
        ({"of": ["c"], "below": 2.5}, "fails"),
        ({"rising": ["a", "b", "c"]}, "holds"),
        ({"rising": ["b", "a"]}, "fails"),
        ({"rising": ["b", "a"], "slack": 1.1}, "holds"),
        ({"alike": ["b", "c"], "within": 0.5}, "holds"),
        ({"alike": ["a", "b", "c"], "within": 1.2}, "fails"),
        ({"widening": [["c", "b"], ["b", "a"]]}, "holds"),
        ({"widening": [["b", "a"], ["c", "b"]]}, "fails"),
        ({"rising": ["a", "missing"]}, "unknown"),
        ({"of": ["nowhere"], "above": 0.0}, "unknown"),
    ],
    ids=str,
)
def test_a_claim_is_judged_by_the_means(claim: dict[str, Any], outcome: str) -> None:
    expectation = Expectation.model_validate_json(json.dumps({"claim": "so", **claim}))
    verdict = judge(expectation, MEANS)
    assert verdict.outcome == outcome
    assert verdict.detail


def test_a_verdict_names_what_breaks_the_claim() -> None:
    verdict = judge(Expectation(claim="so", rising=("a", "c", "b")), MEANS)
    assert verdict.detail == "b 2 is not above c 2.5"
    assert judge(Expectation(claim="so", of=("missing", "a"), above=0.0), MEANS).detail == "no result yet: missing"


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({}, "exactly one of"),
        ({"of": ["a"], "rising": ["a"], "above": 1.0}, "exactly one of"),
        ({"of": ["a"]}, "needs a bound"),
    ],
)
def test_a_claim_of_no_or_two_kinds_is_refused(claim: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Expectation.model_validate_json(json.dumps({"claim": "so", **claim}))


def study(**scale: Any) -> dict[str, Any]:
    return {
        "name": "study",
        "seeds": [0, 1],
        "baseline": {"model": {"d_model": 64}, "train": {"steps": 100}},
        "differences": ["other data"],
        "axes": [
            {
                "name": "layer",
                "variants": [
                    {"label": "wide", "set": {"model.d_model": 128}},
                    {"label": "plain", "set": {"model.gate": False}},
                ],
            }
        ],
        "scale": {"tiny": {"differences": ["smaller"], **scale}},
    }


def test_a_scale_changes_the_baseline_and_variants_by_label() -> None:
    tree = study(set={"train.steps": 3}, variants={"wide": {"model.d_model": 32}}, seeds=[5])
    spec = build_ablation(tree, source="study.toml", scale="tiny", overrides=["train.batch_size=2"])
    assert (spec.name, spec.seeds, spec.differences, spec.scale) == ("study.tiny", (5,), ("other data", "smaller"), {})
    runs = plan_runs(spec)
    assert [(run.spec.model.d_model, run.spec.train.steps, run.spec.train.batch_size) for run in runs] == [
        (32, 3, 2),
        (64, 3, 2),
    ]
    assert [run.spec.model.d_model for run in plan_runs(build_ablation(tree, source="study.toml"))] == [
        128,
        64,
        128,
        64,
    ]


def test_a_scale_may_bring_axes_of_its_own() -> None:
    spec = build_ablation(study(axes=[{"key": "model.d_state", "values": [4]}]), source="study.toml", scale="tiny")
    assert [run.trial.label for run in plan_runs(spec)] == ["4", "4"]


@pytest.mark.parametrize(
    ("scale", "name", "message"),
    [
        ({}, "huge", r"study.toml: no scale 'huge'. Its scales: tiny."),
        ({"variants": {"narrow": {}}}, "tiny", "changes the variant 'narrow', and no axis has one of that label"),
        ({"set": {"model.d_modle": 3}}, "tiny", "unknown key `baseline.model.d_modle`"),
        ({"differences": []}, "tiny", "differences"),
    ],
)
def test_a_scale_that_cannot_be_says_why(scale: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_ablation(study(**scale), source="study.toml", scale=name)


def test_an_ablation_without_scales_says_so() -> None:
    with pytest.raises(SpecError, match="It has no other scale"):
        build_ablation({"name": "study"}, source="study.toml", scale="tiny")


def test_a_papers_table_survives_json() -> None:
    published = Published(source="x", values={"a": 1.0}, expect=(Expectation(claim="so", widening=(("a", "b"),)),))
    assert Published.model_validate_json(published.model_dump_json()) == published
