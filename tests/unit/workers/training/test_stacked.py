"""Several models in rows of one storage: what is written on either side is seen on the other, and gradients keep their places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.models import LanguageModel, build_model
from workers.models.split import project
from workers.specs import ModelSpec, RunSpec
from workers.training.optim import build_optimizer
from workers.training.stacked import Stack
from workers.training.stacked_moments import gather_moments
from workers.training.stacked_projections import StackedProjections, TakenOver

SPEC = ModelSpec(d_model=8, n_layer=1, d_state=3, dt_rank=3)


def models(members: int, spec: ModelSpec = SPEC) -> list[LanguageModel]:
    made = []
    for seed in range(members):
        torch.manual_seed(seed)
        made.append(build_model(spec, 5))
    return made


def names_of(model: LanguageModel) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@given(st.data())
@settings(max_examples=15)
def test_rows_hold_every_parameter_wherever_its_group_puts_it(data: st.DataObject) -> None:
    own = models(3)
    before = [{name: values.clone() for name, values in model.state_dict().items()} for model in own]
    names = data.draw(st.permutations(names_of(own[0])))
    cut = data.draw(st.integers(1, len(names) - 1))
    stack = Stack(own, [names[:cut], names[cut:]])
    assert [stretch.names for stretch in stack.stretches] == [tuple(names[:cut]), tuple(names[cut:])]
    for model, values in zip(own, before, strict=True):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, values[name])
    taken = torch.zeros_like(stack.rows)
    for name in names:
        stack.view(name, taken).add_(1)
    assert taken.max() == 1  # no two parameters meet
    padding = taken == 0
    assert stack.rows[padding].eq(0).all()


def test_a_model_and_the_storage_are_one() -> None:
    own = models(2)
    stack = Stack(own, [names_of(own[0])])
    with torch.no_grad():
        own[1].embedding.weight.fill_(7)
        stack.view("norm.weight", stack.rows)[0].fill_(3)
    assert stack.view("embedding.weight", stack.rows)[1].eq(7).all()
    assert not stack.view("embedding.weight", stack.rows)[0].eq(7).any()
    assert own[0].norm.weight.eq(3).all()
    assert own[0].head.weight is own[0].embedding.weight  # what was tied stays tied


@pytest.mark.parametrize("together", [True, False])
def test_gradients_keep_their_places_and_are_zero_where_there_is_none(together: bool) -> None:
    own = models(2)
    stack = Stack(own, [names_of(own[0])])
    tokens = torch.randint(5, (2, 1, 6) if together else (1, 6))
    logits = stack.forward(tokens)
    weights = torch.randn(logits.shape)
    torch.autograd.backward(logits[0].mul(weights[0]).sum())  # the other member is asked for nothing
    rows = stack.gradients()
    assert rows[1].eq(0).all()
    own[0](tokens[0] if together else tokens).mul(weights[0]).sum().backward()
    for name, parameter in own[0].named_parameters():
        torch.testing.assert_close(stack.view(name, rows)[0], parameter.grad, rtol=1e-4, atol=1e-5)
    stack.zero_gradients()
    assert stack.gradients().eq(0).all()


def test_an_optimizer_s_state_moves_into_the_rows_and_out_again() -> None:
    """The first has done two updates, the second none."""
    own = models(2)
    train = RunSpec.model_validate({"train": {"weight_decay": 0.1}}).train
    optimizers = [build_optimizer(model, train) for model in own]
    for _ in range(2):
        own[0](torch.randint(5, (1, 6))).sum().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
    before = state_of(own[0], optimizers[0])
    names = {parameter: name for name, parameter in own[0].named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in optimizers[0].param_groups]
    stack = Stack(own, groups)
    moments = gather_moments(stack, optimizers)
    after = state_of(own[0], optimizers[0])
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], values) for key, values in before.items())
    assert [float(step) for step in moments.steps[0]] == [2.0, 2.0]
    assert [float(step) for step in moments.steps[1]] == [0.0, 0.0]
    moments.exp_avg[1].fill_(5)
    moments.steps[1][0].fill_(9)
    changed = state_of(own[1], optimizers[1])
    assert all(values.eq(5).all() for (_, slot), values in changed.items() if slot == "exp_avg")
    assert {float(changed[name, "step"]) for name in groups[0]} == {9.0}


def state_of(model: LanguageModel, optimizer: torch.optim.Optimizer) -> dict[tuple[str, str], Tensor]:
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        (names[parameter], slot): values.clone()
        for parameter, slots in optimizer.state.items()
        for slot, values in slots.items()
    }


def test_what_a_scan_takes_side_by_side_lies_so() -> None:
    """The members' channels then need no copy: one flat view serves all of them."""
    own = models(3)
    stack = Stack(own, [names_of(own[0])])
    projections = StackedProjections(stack, torch.device("cpu"), None)
    storage = dict(zip(stack.names, stack.storages, strict=True))["blocks.0.mixer.in_proj.weight"]
    with projections.step(), TakenOver(projections, stack.feeding_channels()):
        x, z = torch.vmap(lambda weight: project(torch.ones(2, 7, 8), weight, (16, 16)), out_dims=2)(storage)
    for part in (x, z):
        assert part.shape == (2, 7, 3, 16)
        assert part.is_contiguous()
    expected = torch.stack([torch.nn.functional.linear(torch.ones(2, 7, 8), one) for one in storage], 2)
    torch.testing.assert_close(torch.cat((x, z), -1), expected)


def test_copies_of_channels_are_those_of_their_step() -> None:
    own = models(3)
    stack = Stack(own, [names_of(own[0])])
    projections = StackedProjections(stack, torch.device("cpu"), None)
    stacked = dict(zip(stack.names, stack.storages, strict=True))
    name = "blocks.0.mixer.conv_weight"
    for value in (1.0, 2.0):
        with torch.no_grad():
            stack.rows.fill_(value)
        with projections.step():
            found = projections.in_one_piece(stacked)
        assert found[name].is_contiguous()
        assert (found[name] == value).all()
        assert found["embedding.weight"] is stacked["embedding.weight"]
    found[name].sum().backward()  # type: ignore[no-untyped-call]
    gradient = stacked[name].grad
    assert gradient is not None
    assert (gradient == 1).all()
