"""Looks inside the layers: what they measure, against values worked out otherwise, and that training never notices them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from tests.unit.workers.training.test_ensemble import Lab, member
from workers.models import build_model
from workers.models.s6 import S6
from workers.specs import ModelSpec, RunSpec
from workers.tasks import build_task
from workers.training import trial
from workers.training.branching import branch_checkpoint
from workers.training.checkpoint import load_weights, read_checkpoint
from workers.training.determinism import EVALUATION_SEED
from workers.training.probes import layer_metrics, probed_layers

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, Executed, MakeSpec

NAMES = {"dt_p05", "dt_p50", "dt_p95", "half_life_p05", "half_life_p50", "half_life_p95",
         "state_rms", "gate_closed", "gate_open"}  # fmt: skip


def probes_of(run: Executed) -> dict[int, dict[str, float]]:
    """Return what a run's probes logged, by step."""
    found: dict[int, dict[str, float]] = {}
    for step, row in run.sink.rows:
        for key, value in row.items():
            if key.startswith("probe/"):
                found.setdefault(step, {})[key] = value
    return found


def with_model(spec: RunSpec, **changes: Any) -> RunSpec:
    """Return the spec with another model."""
    return spec.model_copy(update={"model": spec.model.model_copy(update=changes)})


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["plain", "dropout"])
def test_training_is_the_same_bit_for_bit_with_and_without(
    execute: Execute, make_spec: MakeSpec, dropout: float
) -> None:
    settings: dict[str, Any] = {"dropout": dropout, "eval_every": 7, "checkpoint_every": 10}
    without = execute(make_spec(**settings))
    with_probes = execute(make_spec(probe_every=3, **settings))
    kept = {place: value for place, value in with_probes.curve().items() if not place[1].startswith("probe/")}
    assert kept == without.curve()
    assert with_probes.weights() == without.weights()
    states = [
        read_checkpoint(run.folder / "checkpoints" / "step-000020").state["random"] for run in (without, with_probes)
    ]
    assert states[0] == states[1]
    assert with_probes.result.metrics.keys() == without.result.metrics.keys()


def test_they_are_logged_at_the_first_step_every_so_many_and_at_the_last(execute: Execute, make_spec: MakeSpec) -> None:
    found = probes_of(execute(make_spec(probe_every=8)))
    assert sorted(found) == [1, 8, 16, 20]
    assert {key.removeprefix("probe/").removesuffix("@0") for key in found[8]} == NAMES
    assert all(math.isfinite(value) for row in found.values() for value in row.values())
    assert found[1]["probe/dt_p05@0"] < found[1]["probe/dt_p50@0"] < found[1]["probe/dt_p95@0"]
    assert found[1] != found[20]


def test_none_are_taken_where_none_are_asked_for(execute: Execute, make_spec: MakeSpec) -> None:
    run = execute(make_spec())
    assert probes_of(run) == {}
    assert "probes" not in [kind for kind, _ in run.sink.notes]


def test_a_hybrid_is_measured_where_its_layers_are_s6(execute: Execute, make_spec: MakeSpec) -> None:
    spec = with_model(
        make_spec(probe_every=10, steps=2), n_layer=4, pattern="mamba,attention,no-gate/s6,h3/hyena", n_heads=2
    )
    run = execute(spec)
    assert {int(key.partition("@")[2]) for key in probes_of(run)[1]} == {0, 2}
    (facts,) = [payload for kind, payload in run.sink.notes if kind == "probes"]
    assert (facts["layers"], facts["without"]) == ([0, 2], {"1": "attention", "3": "h3/hyena"})


def test_a_model_without_s6_logs_none_and_says_what_it_has(execute: Execute, make_spec: MakeSpec) -> None:
    run = execute(with_model(make_spec(probe_every=10, steps=2), inner="s4d"))
    assert probes_of(run) == {}
    (facts,) = [payload for kind, payload in run.sink.notes if kind == "probes"]
    assert (facts["layers"], facts["without"]) == ([], {"0": "mamba/s4d"})


def test_probes_may_be_turned_on_where_a_run_goes_on(execute: Execute, make_spec: MakeSpec, tmp_path: Path) -> None:
    first = execute(make_spec(checkpoint_every=10))
    spec = make_spec(probe_every=5)
    branch_checkpoint(read_checkpoint(first.folder / "checkpoints" / "step-000010"), spec, tmp_path / "checkpoints", {})
    second = execute(spec, folder=tmp_path)
    assert sorted(probes_of(second)) == [15, 20]
    assert second.weights() == first.weights()


def layer(**changes: Any) -> S6:
    """Return an S6 layer."""
    torch.manual_seed(0)
    return S6(ModelSpec(d_model=8, d_state=4, **changes))


def test_the_values_are_those_of_the_formulas() -> None:
    s6 = layer()
    with torch.no_grad():
        s6.dt_weight.zero_()  # type: ignore[union-attr]  # dt is then the same for every token: softplus(dt_bias)
        s6.dt_bias.copy_(torch.linspace(-3, 1, 16))
        z = torch.cat([torch.full((2, 5, 4), -4.0), torch.full((2, 5, 2), 4.0), torch.zeros(2, 5, 10)], dim=-1)
        found = layer_metrics(s6, torch.randn(2, 5, 16), z)
    dt = F.softplus(torch.linspace(-3, 1, 16)).double()
    assert found["dt_p50"] == pytest.approx(dt.quantile(0.5).item())
    assert found["dt_p95"] == pytest.approx(dt.expand(2, 5, 16).flatten().quantile(0.95).item())
    lives = torch.stack([math.log(2) / ((n + 1) * dt) for n in range(4)])  # A is -(n + 1)
    assert found["half_life_p05"] == pytest.approx(lives.flatten().quantile(0.05).item(), rel=1e-5)
    assert found["half_life_p50"] == pytest.approx(lives.flatten().quantile(0.5).item(), rel=1e-5)
    assert (found["gate_closed"], found["gate_open"]) == (0.25, 0.125)
    slowest = lives.max().item()
    assert torch.exp(-dt.min() * slowest).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "gate"),
    [({"selective_dt": False}, True), ({"a_init": "complex"}, True), ({}, False)],
    ids=["constant dt", "complex A", "no gate"],
)
def test_every_kind_of_layer_can_be_measured(changes: dict[str, Any], gate: bool) -> None:
    s6, x = layer(**changes), torch.randn(2, 5, 16)
    with torch.no_grad():
        found = layer_metrics(s6, x, x if gate else None)
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    assert ("gate_open" in found) is gate


def test_the_state_is_that_of_the_last_token(execute: Execute, make_spec: MakeSpec) -> None:
    spec = make_spec(probe_every=10, steps=1)
    run = execute(spec)
    task = build_task(spec.task)
    model = build_model(spec.model, task.vocab_size)
    load_weights(model, run.folder / "checkpoints" / "step-000001")
    tokens = next(iter(task.evaluation(EVALUATION_SEED, 1, 4, torch.device("cpu")))).inputs
    state = model.allocate_state(4)
    with torch.no_grad():
        for position in range(tokens.shape[1]):
            _, state = model.step(tokens[:, position], state)
    assert list(probed_layers(model)) == [0]
    expected = state.layers[0]["ssm"].square().mean().sqrt().item()
    assert probes_of(run)[1]["probe/state_rms@0"] == pytest.approx(expected, rel=1e-5)


def test_a_member_of_an_ensemble_probes_as_it_would_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "build_model", lambda spec, vocab_size: build_model(spec, vocab_size).double())
    lab = Lab(tmp_path)
    specs = [member(0, probe_every=7), member(1)]
    lab.together(specs)
    lab.alone(specs)
    for index in range(2):
        lab.check_equal(index, 24)
    probed = {step for step, key in lab.curve("together-0") if key.startswith("probe/")}
    assert probed == {1, 7, 14, 21, 24}
    assert not any(key.startswith("probe/") for _, key in lab.curve("together-1"))
