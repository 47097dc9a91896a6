"""A made-up op whose fast form can be right or wrong, so that refusals are real."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels.bench.problems import Problem, Sizes
from kernels.bench.registry import Anchor, Entry, Shape, Work

MakeEntry = Callable[[float], Entry]


def double(values: Tensor, *, error: float, implementation: str) -> Tensor:
    """Twice the values; the plain form is off by `error`, unless it is asked for in float64 as the oracle."""
    wrong = implementation == "torch" and values.dtype != torch.float64
    return values * (2.0 + (error if wrong else 0.0))


@pytest.fixture
def make_entry() -> MakeEntry:
    """An entry whose plain form has the given relative error."""

    def entry(error: float) -> Entry:
        def make(sizes: Sizes, dtype: torch.dtype, device: str) -> Problem:
            values = torch.randn(sizes["n"], generator=torch.Generator().manual_seed(0)).to(device, dtype)
            return Problem(
                "double", str(sizes["n"]), dtype, {"values": values}, double, ("y",), {"error": error}, plain="torch"
            )

        shape = Shape({"n": 64}, Anchor(1.0, 2.0, source="made up"))
        check = lambda dtype, device: make({"n": 16}, dtype, device)  # noqa: E731
        return Entry(
            "double", ("n",), make, lambda sizes, width: Work(width * sizes["n"], 0), (shape,), (shape,), (check,)
        )

    return entry
