"""Specs and expansion: what a file says is what runs, and what it gets wrong is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.ablation import build_ablation, build_run, expand, load_ablation, parse_override, plan_runs, set_dotted
from workers.errors import SpecError
from workers.specs import ModelSpec, RunSpec, SelectiveCopyingSpec, flatten, spec_hash


def study(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "name": "study",
        "seeds": [0, 1],
        "baseline": {"task": {"name": "selective-copying", "context": 64}},
        "axes": [{"key": "model.inner", "values": ["s6", "s4d"]}, {"key": "model.d_state", "values": [4, 8]}],
    }
    tree.update(changes)
    return tree


def test_a_grid_is_the_product_of_its_axes_times_the_seeds() -> None:
    runs = plan_runs(build_ablation(study(), source="study.toml"))
    seen = [(run.spec.model.inner, run.spec.model.d_state, run.spec.seed) for run in runs]
    assert seen == [(inner, size, seed) for seed in (0, 1) for inner in ("s6", "s4d") for size in (4, 8)]
    assert runs[0].trial.label == "s6 · 4"
    assert runs[0].trial.labels == {"model.inner": "s6", "model.d_state": "4"}


def test_one_at_a_time_changes_one_axis_of_the_baseline_each() -> None:
    tree = study(design="one-at-a-time")
    tree["axes"] = [{"key": "model.inner", "values": ["s4d"]}, {"key": "model.d_state", "values": [4, 8]}]
    trials = expand(build_ablation(tree, source="study.toml"))
    assert [(t.spec.model.inner, t.spec.model.d_state) for t in trials] == [
        ("s6", 16),
        ("s4d", 16),
        ("s6", 4),
        ("s6", 8),
    ]


def test_variants_change_several_keys_under_one_label() -> None:
    variants = [
        {"label": "copying", "set": {"task": {"name": "copying", "context": 32}}},
        {"label": "long", "set": {"task.context": 128, "train.steps": 9}},
    ]
    trials = expand(build_ablation(study(axes=[{"name": "task", "variants": variants}]), source="study.toml"))
    assert [trial.label for trial in trials] == ["copying", "long"]
    assert trials[0].spec.task.name == "copying"
    assert isinstance(trials[1].spec.task, SelectiveCopyingSpec)
    assert (trials[1].spec.task.context, trials[1].spec.train.steps) == (128, 9)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"baseline": {"model": {"dstate": 8}}},
            r"study\.toml: unknown key `baseline\.model\.dstate`: did you mean `baseline\.model\.d_state`",
        ),
        ({"baseline": {"modle": {}}}, "did you mean the table `baseline.model`"),
        ({"baseline": {"task": {"name": "text", "contxt": 3}}}, "unknown key `baseline.task.contxt`"),
        (
            {"baseline": {"model": {"d_state": "8"}}},
            "`baseline.model.d_state`: Input should be a valid integer, got '8'",
        ),
        ({"baseline": {"model": {"d_state": True}}}, "valid integer, got True"),
        ({"baseline": {"train": {"lr": -1.0}}}, "greater than 0, got -1.0"),
        (
            {"baseline": {"task": {"name": "sorting"}}},
            "key `baseline.task.name`: got 'sorting', expected one of copying, ",
        ),
        ({"axes": [{"key": "model.d_state", "values": []}]}, "needs either `values` or `variants`"),
        ({"axes": [{"key": "model.d_state", "values": [4, 4]}]}, "names 4 more than once"),
        ({"axes": [{"values": [4]}]}, "needs a `key`"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "must differ"),
        ({"seed": [1]}, "unknown key `seed`: did you mean `seeds`"),
        ({"name": "No Spaces"}, "key `name`"),
        (
            {"metric": {"key": "valid/loss", "direction": "up"}},
            "key `metric.direction`: got 'up', expected one of max, min",
        ),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else None,
)
def test_a_bad_file_is_named_with_its_key(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        build_ablation(study(**changes), source="study.toml")


def test_an_axis_value_that_cannot_be_is_named_with_its_trial() -> None:
    spec = build_ablation(study(axes=[{"key": "model.d_state", "values": [4, 0]}]), source="study.toml")
    with pytest.raises(SpecError, match=r"trial \(model.d_state = 0\): key `model.d_state`"):
        expand(spec, "study.toml")


def test_two_trials_that_are_one_run_are_refused() -> None:
    variants = [{"label": "a", "set": {"train.lr": 1e-3}}, {"label": "b", "set": {"train.lr": 0.001}}]
    spec = build_ablation(study(axes=[{"name": "rate", "variants": variants}]), source="study.toml")
    with pytest.raises(SpecError, match=r"\(rate = a\) and \(rate = b\) are the same run"):
        expand(spec, "study.toml")


def test_a_study_too_large_to_mean_is_refused_before_it_is_built() -> None:
    axes = [{"key": key, "values": list(range(1, 200))} for key in ("model.d_state", "train.steps", "train.batch_size")]
    with pytest.raises(SpecError, match="more than 100,000 runs"):
        expand(build_ablation(study(axes=axes), source="study.toml"))


def test_overrides_reach_the_baseline_and_keep_their_type(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[axes]]\nkey = "model.inner"\nvalues = ["s6"]\n', encoding="utf-8")
    spec = load_ablation(path, overrides=["train.lr=3e-3", "task.name=text", "model.gate=false"], seeds=[5])
    (run,) = plan_runs(spec)
    assert spec.name == "mine"
    assert (run.spec.train.lr, run.spec.task.name, run.spec.model.gate, run.spec.seed) == (3e-3, "text", False, 5)


@pytest.mark.parametrize("text", ["model.d_state", "=3", ""])
def test_an_override_without_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected KEY=VALUE"):
        parse_override(text)


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(SpecError, match="`model.d_state` is a value, not a table"):
        build_run(["model.d_state=4", "model.d_state.more=1"])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[baseline", b"name = "])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match="broken.toml"):
        load_ablation(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_ablation(tmp_path / "none.toml")


@given(
    inner=st.sampled_from(["s6", "s4d"]),
    d_state=st.integers(1, 128).map(lambda n: 2 * n),
    lr=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_run_equals_its_json(inner: Any, d_state: int, lr: float, seed: int) -> None:
    run = RunSpec(model=ModelSpec(inner=inner, d_state=d_state), seed=seed)
    run = run.model_copy(update={"train": run.train.model_copy(update={"lr": lr})})
    again = RunSpec.model_validate_json(run.model_dump_json())
    assert again == run
    assert spec_hash(again) == spec_hash(run)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_expansion_has_the_size_of_the_product(sizes: list[int], seeds: int) -> None:
    keys = ["model.d_state", "train.steps", "train.batch_size", "model.n_layer"]
    axes = [{"key": key, "values": list(range(1, size + 1))} for key, size in zip(keys, sizes, strict=False)]
    runs = plan_runs(build_ablation(study(axes=axes, seeds=list(range(seeds))), source="study.toml"))
    product = len(list(itertools.product(*(range(size) for size in sizes)))) * seeds
    assert len({spec_hash(run.spec) for run in runs}) == len(runs) == product


@given(st.dictionaries(st.sampled_from(["a.b", "a.c", "d", "e.f.g"]), st.integers(), max_size=4))
def test_setting_dotted_keys_and_flattening_are_inverse(values: dict[str, int]) -> None:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        set_dotted(tree, key, value, source="test")
    assert flatten(tree) == values
