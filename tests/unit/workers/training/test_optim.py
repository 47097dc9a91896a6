"""Which parameters decay, at what rate each group learns, and what clipping does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from workers.models import build_model
from workers.specs import ModelSpec, TrainSpec
from workers.training.optim import StepRates, build_optimizer, clip_gradients

UNDECAYED = ("A_log", "D", "dt_bias", "norm", "bias")


@pytest.mark.parametrize("inner", ["s6", "s4d"])
def test_every_parameter_is_in_one_group_and_state_space_norms_and_biases_do_not_decay(inner: str) -> None:
    model = build_model(ModelSpec.model_validate({"d_model": 8, "n_layer": 2, "d_state": 4, "inner": inner}), 6)
    optimizer = build_optimizer(model, TrainSpec(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in UNDECAYED or leaf.endswith("bias") or "norm" in name:
            assert decay[id(parameter)] == 0.0, name
    decayed = {name for name, parameter in model.named_parameters() if decay[id(parameter)] > 0}
    assert any(name.endswith("in_proj.weight") for name in decayed), decayed


def test_the_update_is_fused() -> None:
    optimizer = build_optimizer(build_model(ModelSpec(d_model=8), 6), TrainSpec())
    assert optimizer.defaults["fused"] is True
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_a_group_with_a_ceiling_never_learns_faster() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "max_lr": 1e-3}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    rates = StepRates(optimizer, torch.device("cpu"))
    rates.reserve(2)
    rates.set(0, 1e-2)
    rates.set(1, 1e-4)
    rates.bind(0)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 1e-3]
    rates.bind(1)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-4]


@pytest.mark.parametrize(("limit", "scale"), [(2.5, 0.5), (50.0, 1.0), (0.0, 1.0)])
def test_clipping_scales_all_gradients_by_their_global_norm(limit: float, scale: float) -> None:
    """The first moment is a tenth of the gradient that the optimizer saw."""
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 1, 1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), fused=True)
    norm = clip_gradients(parameters, limit, optimizer)
    assert norm.item() == pytest.approx(math.hypot(3, 4))
    optimizer.step()
    assert optimizer.state[parameters[0]]["exp_avg"][0].item() == pytest.approx(0.3 * scale, rel=1e-5)
    assert optimizer.state[parameters[1]]["exp_avg"].item() == pytest.approx(0.4 * scale, rel=1e-5)


@pytest.mark.parametrize(("decay", "groups"), [(0.0, 1), (0.1, 2)])
def test_groups_that_differ_in_nothing_are_one(decay: float, groups: int) -> None:
    model = build_model(ModelSpec(d_model=8), 6)
    optimizer = build_optimizer(model, TrainSpec(weight_decay=decay))
    assert len(optimizer.param_groups) == groups
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
