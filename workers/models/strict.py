"""Deterministic kernels for an operation that has them and, where a run merely warns, does not take them.

PyTorch's fused attention is deterministic under `use_deterministic_algorithms(True)` alone, not with `warn_only=True`,
which is how a run on CUDA is set up so that a layer of one's own without a deterministic form still trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def strictly(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return `function(*tensors)`, its forward and backward pass in strict mode where deterministic mode only warns."""
    if not _only_warns():
        return function(*tensors)
    if not torch.is_grad_enabled():
        with _strict():
            return function(*tensors)
    region = _Region()
    entered = [_Entry.apply(tensor, region) for tensor in tensors]  # type: ignore[no-untyped-call]
    with _strict():
        out = function(*entered)
    left: Tensor = _Exit.apply(out, region)  # type: ignore[no-untyped-call]
    return left


class _Region:
    """Whether the backward pass is inside, so that strict mode is switched on once and off once."""

    inside = False


class _Exit(torch.autograd.Function):
    """The identity at the end of the region, where its backward pass begins."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, region: _Region) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.region = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if _only_warns():
            torch.use_deterministic_algorithms(True)
            ctx.region.inside = True
        return gradient, None


class _Entry(torch.autograd.Function):
    """The identity at the beginning of the region, where its backward pass ends."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, region: _Region) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.region = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.region.inside:
            torch.use_deterministic_algorithms(True, warn_only=True)
            ctx.region.inside = False
        return gradient, None


def _only_warns() -> bool:
    return torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def _strict() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)
