"""One function, three ways to compute it: at once, in pieces, token by token. float64, so that a wrong term shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.workers.models.cases import every_switch, make_model, make_tokens


def assert_equal(got: Tensor, expected: Tensor) -> None:
    """Logits are of order 1 and float64 rounds at 1e-16."""
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-12)


@every_switch
def test_steps_equal_the_parallel_form(switches: dict[str, Any]) -> None:
    model, tokens = make_model(switches), make_tokens(3, 19)
    state = model.allocate_state(3)
    with torch.no_grad():
        whole = model(tokens)
        for place in range(19):
            logits, state = model.step(tokens[:, place], state)
            assert_equal(logits, whole[:, place])
    assert state.position == 19


@every_switch
def test_pieces_equal_the_whole_and_steps_go_on_from_them(switches: dict[str, Any]) -> None:
    model, tokens = make_model(switches), make_tokens(2, 23)
    state = model.allocate_state(2)
    with torch.no_grad():
        whole = model(tokens)
        pieces = [model(piece, state) for piece in torch.split(tokens[:, :22], [1, 6, 2, 13], dim=1)]
        last, _ = model.step(tokens[:, 22], state)
    assert_equal(torch.cat([*pieces, last[:, None]], dim=1), whole)


@every_switch
def test_logits_do_not_depend_on_later_tokens(switches: dict[str, Any]) -> None:
    model, tokens = make_model(switches), make_tokens(2, 12)
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 11
    with torch.no_grad():
        first, second = model(tokens), model(changed)
    # An FFT mixes all positions, so what cancels exactly does so only up to rounding.
    assert_equal(first[:, :7], second[:, :7])
    assert not torch.allclose(first[:, 7], second[:, 7])
    assert not torch.allclose(first[:, 8:], second[:, 8:])


@every_switch
def test_sequences_of_a_batch_do_not_see_each_other(switches: dict[str, Any]) -> None:
    model, tokens = make_model(switches), make_tokens(4, 9)
    with torch.no_grad():
        assert_equal(model(tokens)[[2, 0]], model(tokens[[2, 0]]))


@every_switch
def test_every_parameter_learns(switches: dict[str, Any]) -> None:
    model = make_model(switches)
    model(make_tokens(2, 9)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        rows = parameter.grad.flatten(1) if parameter.grad.dim() > 1 else parameter.grad[:, None]
        # A shift of all keys leaves softmax as it is; learned positions beyond the sequence are not read.
        dead = {"in_proj.bias", "positions", "positions.weight"}
        assert name.endswith(tuple(dead)) or (rows.abs().amax(-1) > 0).float().mean() > 0.5, name


@pytest.mark.parametrize("switches", [{}, {"inner": "s4d"}, {"a_init": "complex"}], ids=["s6", "s4d", "complex"])
def test_the_state_stays_as_large_as_it_was(switches: dict[str, Any]) -> None:
    model = make_model(switches)
    state = model.allocate_state(2)
    before = [{name: (tensor.shape, tensor.dtype) for name, tensor in layer.items()} for layer in state.layers]
    with torch.no_grad():
        for piece in torch.split(make_tokens(2, 300), 64, dim=1):
            model(piece, state)
    assert before == [{name: (tensor.shape, tensor.dtype) for name, tensor in layer.items()} for layer in state.layers]


def test_attentions_cache_grows_past_its_first_size() -> None:
    model, tokens = make_model({"mixer": "attention"}), make_tokens(1, 150)
    state = model.allocate_state(1)
    with torch.no_grad():
        whole = model(tokens)
        model(tokens[:, :60], state)
        steps = [model.step(tokens[:, place], state)[0] for place in range(60, 150)]
    assert_equal(torch.stack(steps, dim=1), whole[:, 60:])


@pytest.mark.parametrize(
    "switches",
    [{}, {"inner": "s4d"}, {"inner": "hyena"}, {"mixer": "h3", "inner": "s4d"}, {"mixer": "attention"}],
    ids=str,
)
def test_gradients_flow_through_a_state_and_stop_where_detached(switches: dict[str, Any]) -> None:
    model, tokens = make_model(switches), make_tokens(2, 10)
    weight = model.embedding.weight

    def gradient(detach: bool) -> torch.Tensor:
        state = model.allocate_state(2)
        model(tokens[:, :5], state)
        state = state.detach() if detach else state
        (grad,) = torch.autograd.grad(model(tokens[:, 5:], state).square().sum(), weight)
        return grad

    (expected,) = torch.autograd.grad(model(tokens)[:, 5:].square().sum(), weight)
    torch.testing.assert_close(gradient(detach=False), expected, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(gradient(detach=True), expected)
