"""A fused operation is strict in both passes, and nothing else of the run is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.workers.models.cases import make_model, make_tokens
from workers.models.strict import strictly


def mode() -> str:
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "warns" if torch.is_deterministic_algorithms_warn_only_enabled() else "strict"


class Spy(torch.autograd.Function):
    """Adds its arguments and notes in which mode its passes run."""

    seen: list[str] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        Spy.seen.append(mode())
        return sum(tensors, torch.zeros(()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        Spy.seen.append(mode())
        return gradient, gradient


def spy(one: Tensor, other: Tensor) -> Tensor:
    out: Tensor = Spy.apply(one, other)  # type: ignore[no-untyped-call]
    return out


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    Spy.seen.clear()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("switches", "outside", "inside"),
    [
        (None, "off", "off"),
        ({"mode": True}, "strict", "strict"),
        ({"mode": True, "warn_only": True}, "warns", "strict"),
    ],
)
@pytest.mark.parametrize("learned", [(True, True), (True, False), (False, True)])
def test_both_passes_are_strict_where_the_run_only_warns(
    switches: dict[str, bool] | None, outside: str, inside: str, learned: tuple[bool, bool]
) -> None:
    if switches:
        torch.use_deterministic_algorithms(**switches)
    one, other = (torch.ones(3, requires_grad=wanted) for wanted in learned)
    y = strictly(spy, one, other)
    assert mode() == outside
    torch.autograd.backward(y.sum())
    assert mode() == outside
    assert Spy.seen == [inside, inside]
    for tensor, wanted in zip((one, other), learned, strict=True):
        assert (tensor.grad is not None) == wanted


def test_a_failure_inside_leaves_the_run_as_it_was() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)

    def fail(_: Tensor) -> Tensor:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        strictly(fail, torch.ones(1, requires_grad=True))
    with torch.no_grad(), pytest.raises(ValueError, match="inside"):
        strictly(fail, torch.ones(1))
    assert mode() == "warns"


def test_attention_is_the_same_in_every_mode_and_under_vmap() -> None:
    model, tokens = make_model({"mixer": "attention", "positions": "xpos"}), make_tokens(2, 9)
    plain = torch.autograd.grad(model(tokens).square().sum(), list(model.parameters()))
    torch.use_deterministic_algorithms(True, warn_only=True)
    warned = torch.autograd.grad(model(tokens).square().sum(), list(model.parameters()))
    assert mode() == "warns"
    assert all(torch.equal(*pair) for pair in zip(plain, warned, strict=True))
    q = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)

    def attend(one: Tensor) -> Tensor:
        return strictly(lambda x: torch.softmax(x @ x.mT, dim=-1) @ x, one)

    together = torch.vmap(attend)(q)
    torch.testing.assert_close(together, attend(q))
    (gradient,) = torch.autograd.grad(together.sum(), q)
    assert gradient.shape == q.shape
    assert mode() == "warns"
