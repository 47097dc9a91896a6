"""When a backward may overwrite what its forward saved: never where it could be read again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from kernels.selective_scan.saved import used_once


class Asking(torch.autograd.Function):
    """A square that notes, each time its backward runs, whether what it saved is used once."""

    answers: list[bool] = []  # noqa: RUF012 - autograd makes no instance

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.square(), x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        x, saved = ctx.saved_tensors
        Asking.answers.append(used_once(saved))
        slope: Tensor = 2 * x * slopes[0]
        return slope


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    Asking.answers.clear()


def square(x: Tensor) -> Tensor:
    y: Tensor = Asking.apply(x)[0]  # type: ignore[no-untyped-call]
    total: Tensor = y.sum()
    return total


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({}, True),
        ({"retain_graph": True}, False),
        ({"create_graph": True}, False),
        ({"create_graph": True, "retain_graph": False}, False),
    ],
    ids=["once", "retained", "differentiated", "differentiated-once"],
)
def test_only_a_pass_that_frees_its_graph(options: dict[str, Any], answer: bool) -> None:
    x = torch.ones(3, requires_grad=True)
    torch.autograd.grad(square(x), x, **options)
    assert Asking.answers == [answer]


@pytest.mark.parametrize(
    ("mode", "answer"), [(nullcontext, True), (lambda: FlopCounterMode(display=False), False)], ids=["none", "mode"]
)
def test_not_under_a_mode(mode: Callable[[], AbstractContextManager[Any]], answer: bool) -> None:
    x = torch.ones(3, requires_grad=True)
    value = square(x)
    with mode():
        torch.autograd.grad(value, x)
    assert Asking.answers == [answer]


def test_not_in_function_transforms() -> None:
    assert torch.equal(torch.func.grad(square)(torch.ones(3)), torch.full((3,), 2.0))
    assert Asking.answers == [False]


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_was_computed_again_is_used_once(reentrant: bool) -> None:
    x = torch.ones(3, requires_grad=True)
    checkpoint(square, x, use_reentrant=reentrant).backward()
    assert Asking.answers == [True]


def test_not_outside_of_a_backward() -> None:
    with torch.no_grad():
        assert not used_once(torch.ones(3))


def test_not_subclasses() -> None:
    class Own(Tensor):
        pass

    answers = []

    def ask(_: Tensor) -> None:
        answers.extend([used_once(torch.ones(3)), used_once(torch.ones(3).as_subclass(Own))])

    x = torch.ones(3, requires_grad=True)
    x.register_hook(ask)  # type: ignore[no-untyped-call]
    torch.autograd.grad(x.sum(), x)
    assert answers == [True, False]
