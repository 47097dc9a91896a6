"""Linear layers and embeddings of a training step: the gradients are autograd's own.

On a CPU the streams beside the chain do not exist; tests/parity/test_captured_step.py has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.common.aside import aside, used
from workers.models import build_model
from workers.models.s6 import S6
from workers.specs import ModelSpec
from workers.training import projections as module
from workers.training.beside import Beside
from workers.training.projections import Projections

CPU = torch.device("cpu")
MODELS = {
    "mamba": ModelSpec(d_model=16, n_layer=2, tie_embeddings=False),
    "tied": ModelSpec(d_model=16, n_layer=1),
    "attention": ModelSpec(mixer="attention", d_model=16, n_heads=2, n_layer=1, mlp_ratio=2, norm="layer"),
    "hyena": ModelSpec(mixer="h3", inner="hyena", h3_shift="conv-qkv", d_conv=3, d_model=16, n_layer=1),
}


def gradients(model: nn.Module, tokens: Tensor, *, taken_over: bool, bf16: bool = False) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    projections = Projections(model, CPU, None)
    for _ in range(2):  # the second time with weights that have been seen
        model.zero_grad(set_to_none=True)
        with projections.step():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                if taken_over:
                    with projections.forward():
                        logits = model(tokens)
                else:
                    logits = model(tokens)
            F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_gradients_are_autograd_s_own(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    model, tokens = build_model(spec, 11), torch.randint(0, 11, (3, 13))
    expected = gradients(model, tokens, taken_over=False)
    found = gradients(model, tokens, taken_over=True)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_tied_weight_adds_up_where_autograd_makes_one_of_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONE_HOT", 10)
    test_gradients_are_autograd_s_own(MODELS["tied"])


def test_under_autocast_weights_gradients_are_not_rounded_to_bf16() -> None:
    torch.manual_seed(0)
    model, tokens = nn.Sequential(nn.Embedding(7, 32), nn.Linear(32, 24), nn.Linear(24, 7)), torch.randint(0, 7, (4, 9))
    expected = gradients(model, tokens, taken_over=False, bf16=True)
    found = gradients(model, tokens, taken_over=True, bf16=True)
    assert torch.equal(expected["2.weight"].bfloat16().float(), expected["2.weight"])
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], gradient, rtol=0.05, atol=2e-3, msg=name)


def test_products_take_the_weights_of_their_step() -> None:
    """The casts are copies: a step after an update must see the new weights, in one forward and the next."""
    layer, x = nn.Linear(4, 3), torch.ones(1, 2, 4)
    projections = Projections(layer, CPU, None)
    outputs = []
    for value in (1.0, 2.0):
        with torch.no_grad():
            layer.weight.fill_(value)
            layer.bias.fill_(0.5)
        with projections.step(), torch.autocast("cpu", torch.bfloat16), projections.forward():
            outputs.append(layer(x).float())
    assert [float(output.detach()[0, 0, 0]) for output in outputs] == [4.5, 8.5]


def test_outside_autocast_nothing_is_cast() -> None:
    """Hyena's filter and S4D's kernel leave autocast: their layers must stay in fp32."""
    layer, x = nn.Linear(4, 3), torch.full((1, 2, 4), 1 + 2**-12)
    projections = Projections(layer, CPU, None)
    with projections.step(), torch.autocast("cpu", torch.bfloat16), projections.forward():
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        assert layer(x).dtype == torch.bfloat16


def test_other_tensors_are_left_alone() -> None:
    projections = Projections(nn.Linear(2, 2), CPU, None)
    stranger = nn.Parameter(torch.ones(3, 2))  # may lie where the layer's weight lay, were that forgotten
    with projections.step(), projections.forward():
        product = F.linear(torch.ones(1, 2), stranger)
    assert "_Linear" not in type(product.grad_fn).__name__


def test_a_large_vocabulary_has_no_one_hot_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONE_HOT", 10)
    model, tokens = nn.Embedding(7, 4), torch.randint(0, 7, (2, 3))
    projections = Projections(model, CPU, None)
    with projections.step(), projections.forward():
        embedded = model(tokens)
    assert type(embedded.grad_fn).__name__ == "EmbeddingBackward0"


class Noted(Beside):
    """Counts what is done beside the chain."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.forks = 0

    @contextlib.contextmanager
    def fork(self, *made_of: Tensor, loose: bool = False) -> Iterator[None]:
        self.forks += 1
        with super().fork(*made_of, loose=loose):
            yield


def forks(projections: Projections, parameter: Tensor, *, uses: int) -> int:
    beside = projections._beside
    assert isinstance(beside, Noted)
    before = beside.forks
    with projections.step():
        for _ in range(uses):
            used(parameter)
        with aside(parameter, torch.ones(1)):
            pass
    return beside.forks - before


def test_what_a_kernel_sums_for_a_parameter_is_beside_where_nothing_else_makes_its_gradient() -> None:
    layer = nn.Linear(4, 3)
    projections = Projections(layer, CPU, Noted())
    assert forks(projections, layer.weight.detach().flatten(), uses=1) == 1
    assert forks(projections, layer.weight, uses=2) == 0
    assert forks(projections, layer.weight[:2], uses=1) == 0  # autograd fills the rest with zeros, in the chain
    assert forks(projections, layer.weight * 1, uses=1) == 0


def test_decay_rates_are_those_of_their_step() -> None:
    layer = S6(ModelSpec(d_model=4, d_state=2))
    projections = Projections(layer, CPU, Noted())
    for value in (0.0, 1.0, 2.0):
        with torch.no_grad():
            layer.A_log.fill_(value)
        layer.zero_grad(set_to_none=True)
        with projections.step():
            with projections.forward():
                rates = layer.transition()
            rates.sum().backward()  # type: ignore[no-untyped-call]
        assert "Decay" in type(rates.grad_fn).__name__
        assert torch.equal(rates, -torch.exp(layer.A_log))
        assert layer.A_log.grad is not None
        assert torch.equal(layer.A_log.grad, rates)
