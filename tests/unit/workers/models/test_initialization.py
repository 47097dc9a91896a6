"""Initial values are those of the released Mamba-1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from workers.models import build_model
from workers.models.initialization import initial_dt_bias, log_uniform
from workers.models.s4d import S4D
from workers.models.s6 import S6
from workers.specs import ModelSpec


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def s6(**switches: Any) -> S6:
    return S6(ModelSpec.model_validate({"d_model": 512, **switches}))


def test_dt_is_log_uniform_between_its_bounds() -> None:
    dt = F.softplus(initial_dt_bias(20000, 1e-3, 1e-1).double())
    assert dt.min() >= 1e-3 * (1 - 1e-4)
    assert dt.max() <= 1e-1 * (1 + 1e-4)
    quantiles = dt.log10().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert torch.allclose(quantiles, torch.tensor([-2.5, -2.0, -1.5], dtype=torch.float64), atol=0.05)


def test_dt_has_a_floor() -> None:
    assert F.softplus(initial_dt_bias(100, 1e-9, 1e-8).double()).sub(1e-4).abs().max() < 1e-9


def test_log_uniform_returns_logarithms() -> None:
    values = log_uniform(1000, 0.5, 2.0)
    assert math.log(0.5) <= values.min() <= -0.6
    assert 0.6 <= values.max() <= math.log(2.0)


def test_s6_starts_as_released() -> None:
    layer = s6()
    assert layer.dt_rank == 32
    assert layer.dt_weight is not None
    assert layer.D is not None
    assert 0.99 * 32**-0.5 < layer.dt_weight.abs().max() <= 32**-0.5
    assert torch.equal(layer.D, torch.ones(1024))
    torch.testing.assert_close(layer.transition(), -torch.arange(1.0, 17.0).expand(1024, 16))


@pytest.mark.parametrize(("d_model", "rank"), [(64, 4), (100, 7), (8, 1)])
def test_auto_rank_is_a_sixteenth_rounded_up(d_model: int, rank: int) -> None:
    assert s6(d_model=d_model).dt_rank == rank


def test_a_starts_as_the_rows_of_table_8() -> None:
    assert torch.equal(s6(a_init="half").transition(), torch.full((1024, 16), -0.5))
    random = (-s6(a_init="random").transition()).log()
    assert abs(random.mean()) < 0.05
    assert abs(random.std() - 1) < 0.05
    expected = torch.complex(torch.full((16,), -0.5), torch.arange(16.0))
    torch.testing.assert_close(s6(a_init="complex").transition(), expected.expand(1024, 16))


@pytest.mark.parametrize("a_init", ["lin", "complex"])
def test_constant_b_is_one_and_constant_c_normal(a_init: str) -> None:
    layer = s6(a_init=a_init, selective_b=False, selective_c=False)
    assert layer.B is not None
    assert layer.C is not None
    B, C = layer._states(layer.B, layer.B), layer._states(layer.C, layer.C)
    assert torch.equal(B, torch.ones_like(B))
    assert abs(C.abs().square().mean() - 1) < 0.05


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("lin", torch.complex(torch.full((4,), -0.5), math.pi * torch.arange(4.0))),
        ("inv", torch.complex(torch.full((4,), -0.5), 8 / math.pi * (8 / torch.tensor([1.0, 3, 5, 7]) - 1))),
        ("real", -torch.arange(1.0, 9.0)),
    ],
)
def test_s4d_starts_as_published(init: str, expected: torch.Tensor) -> None:
    layer = S4D(ModelSpec.model_validate({"d_model": 4, "inner": "s4d", "d_state": 8, "s4d_init": init}))
    log_decay, _ = layer.discretise()
    torch.testing.assert_close(log_decay / layer.log_dt.exp()[:, None], expected.expand(8, len(expected)))


@pytest.mark.parametrize(("mlp_ratio", "n_residuals"), [(0, 9), (1, 18)])
def test_projections_into_the_stream_are_scaled_down(mlp_ratio: int, n_residuals: int) -> None:
    model = build_model(ModelSpec(d_model=64, n_layer=9, mlp_ratio=mlp_ratio), 11)
    for name, parameter in model.named_parameters():
        if name.endswith("out_proj.weight"):
            bound = parameter.shape[1] ** -0.5 / n_residuals**0.5
            assert 0.98 * bound < parameter.abs().max() <= bound * (1 + 1e-6), name
        if name.endswith("in_proj.weight"):
            assert parameter.abs().max() > 0.98 * parameter.shape[1] ** -0.5, name


def test_embeddings_are_small_and_the_head_is_theirs() -> None:
    tied = build_model(ModelSpec(), 1000)
    assert tied.head.weight is tied.embedding.weight
    assert abs(tied.embedding.weight.std() - 0.02) < 0.001
    untied = build_model(ModelSpec(tie_embeddings=False), 1000)
    assert not torch.equal(untied.head.weight, untied.embedding.weight)


def test_equal_seeds_build_equal_models() -> None:
    first = build_model(ModelSpec(), 11).state_dict()
    torch.manual_seed(0)
    second = build_model(ModelSpec(), 11).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
