"""How many parameters models have, as the paper prints it, and how they reach the optimizer."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

from tests.unit.workers.models.cases import VOCAB, every_switch, make_spec
from workers.models import build_model, count_parameters, expected_parameters, parameter_groups
from workers.specs import ModelSpec

PAPER = {"d_model": 1024, "n_layer": 48}
TABLE_9 = [(0, "358.9"), (1, "359.1"), (2, "359.3"), (4, "359.7"), (8, "360.5"), (16, "362.1"), (32, "365.2"), (64, "371.5")]  # fmt: skip
TABLE_10 = [(1, "367.1"), (2, "367.4"), (4, "368.0"), (8, "369.1"), (16, "371.5")]


@pytest.mark.parametrize(
    ("changes", "printed"),
    [
        *(({"dt_rank": rank}, millions) for rank, millions in TABLE_9),
        *(({"d_state": states}, millions) for states, millions in TABLE_10),
    ],
)
@pytest.mark.parametrize("constant", [False, True], ids=["selective", "constant"])
def test_sizes_are_those_of_the_papers_tables_9_and_10(changes: dict[str, Any], printed: str, constant: bool) -> None:
    if constant:  # Table 10 prints one size for both
        changes = changes | {"selective_b": False, "selective_c": False}
    spec = ModelSpec.model_validate({**PAPER, **changes})
    with torch.device("meta"):
        built = count_parameters(build_model(spec, 50257))
    assert f"{built / 1e6:.1f}" == printed
    assert expected_parameters(spec, 50257) == built


def size_of(**changes: Any) -> int:
    """Return how many parameters are built for a vocabulary of 16, and check the closed form."""
    spec = ModelSpec.model_validate({"n_layer": 2, "tie_embeddings": False, **changes})
    with torch.device("meta"):
        built = count_parameters(build_model(spec, 16))
    assert expected_parameters(spec, 16) == built
    return built


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("positions", ["sinusoidal", "rope", "xpos"])
def test_attention_of_table_11_has_137_thousand(norm: str, positions: str) -> None:
    size = size_of(mixer="attention", d_model=128, positions=positions, norm=norm)
    assert round(size, -3) == 137_000
    assert norm == "rms" or size == 136_960


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_mamba_of_table_11_has_74_thousand(norm: str) -> None:
    size = size_of(d_model=64, dt_rank=16, norm=norm)
    assert round(size, -3) == 74_000
    assert norm == "rms" or size == 73_856


def test_h3_of_table_11_has_153_thousand() -> None:
    """Published H3 with 32 states in both systems, one A and no biases; the size alone does not say that it was this one."""
    h3 = {"mixer": "h3", "inner": "s4d", "d_model": 128, "s4d_tied": True}
    assert size_of(**h3, d_state=32, h3_shift_state=32, h3_bias=False) == 152_768
    assert size_of(**h3, d_state=64, h3_shift="conv", tie_embeddings=True) == 152_832  # but the other rows are not tied
    for other in (
        {"d_state": 32, "h3_shift_state": 32},
        {"d_state": 64, "h3_shift_state": 64, "h3_bias": False},
        {"d_state": 64, "h3_shift": "conv"},
        {"d_state": 64, "h3_shift": "conv", "h3_bias": False},
        {"d_state": 32, "h3_shift_state": 32, "h3_bias": False, "s4d_tied": False},
    ):
        assert round(size_of(**{**h3, **other}), -3) != 153_000, other


def test_hyena_of_table_11_has_69_million_most_of_them_positions() -> None:
    size = size_of(
        mixer="h3",
        inner="hyena",
        h3_shift="conv-qkv",
        d_conv=3,
        d_model=128,
        hyena_l_max=2**20,
        hyena_positions="learned",
    )
    assert round(size, -6) == 69_000_000
    assert 0 < size - 2 * 33 * 2**20 < 200_000


@every_switch
def test_the_closed_form_counts_every_switch(switches: dict[str, Any]) -> None:
    spec = make_spec(switches)
    with torch.device("meta"):
        model = build_model(spec, VOCAB)
    assert expected_parameters(spec, VOCAB) == count_parameters(model) == sum(p.numel() for p in model.parameters())


@every_switch
def test_groups_hold_every_parameter_once(switches: dict[str, Any]) -> None:
    model = build_model(make_spec(switches), VOCAB)
    grouped = [id(parameter) for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@every_switch
def test_matrices_decay_and_the_rest_does_not(switches: dict[str, Any]) -> None:
    model = build_model(make_spec(switches), VOCAB)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in parameter_groups(model, 0.1) if group["weight_decay"] for p in group["params"]}
    kinds = {re.sub(r"blocks\.\d\.(mixer\.)?", "", name) for name in decayed}
    assert kinds <= {
        *("embedding.weight", "head.weight", "in_proj.weight", "out_proj.weight", "conv_weight"),
        *("inner.x_proj.weight", "inner.dt_weight", "inner.C", "mlp.in_proj.weight", "mlp.out_proj.weight"),
        *("shift_weight", "positions.weight"),
    }
    assert {"embedding.weight", "out_proj.weight"} <= kinds


def test_marks_survive_a_copy_and_a_cast() -> None:
    model = build_model(ModelSpec(inner="s4d", d_model=8), VOCAB)
    expected = [(len(g["params"]), g["weight_decay"], g.get("max_lr")) for g in parameter_groups(model, 0.1)]
    assert (8, 0.0, 1e-3) not in expected
    assert (6, 0.0, 1e-3) in expected  # dt and both parts of A, in two layers
    for other in (copy.deepcopy(model), model.double()):
        groups = parameter_groups(other, 0.1)
        assert [(len(g["params"]), g["weight_decay"], g.get("max_lr")) for g in groups] == expected


def test_frozen_parameters_are_left_out() -> None:
    model = build_model(ModelSpec(d_model=8), VOCAB)
    model.embedding.weight.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1)) == len(list(model.parameters())) - 1
