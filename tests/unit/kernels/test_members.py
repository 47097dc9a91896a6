"""Every plain op under `torch.vmap` gives each member of an ensemble what it gets alone, outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.causal_conv1d import causal_conv1d
from kernels.common.errors import UnsupportedError
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan

Op = Callable[..., tuple[Tensor, ...]]
Inputs = dict[str, Tensor]


def check(op: Op, inputs: Inputs, shared: Inputs | None = None) -> None:
    """Assert that float64 outputs and gradients agree to rounding, member by member."""
    shared = shared or {}
    leaves = {name: values.clone().requires_grad_() for name, values in inputs.items()}
    given_ = {name: values.clone().requires_grad_(values.is_floating_point()) for name, values in shared.items()}
    names = list(leaves)
    together = torch.vmap(lambda *values: op(**dict(zip(names, values, strict=True)), **given_))(*leaves.values())
    weights = [torch.randn_like(one) for one in together]
    sum((one * weight).real.sum() for one, weight in zip(together, weights, strict=True)).backward()  # type: ignore[union-attr]
    shared_grads = {name: torch.zeros_like(values) for name, values in given_.items() if values.requires_grad}
    for member in range(len(next(iter(leaves.values())))):
        own = {name: values[member].clone().requires_grad_() for name, values in inputs.items()}
        also = {name: values.clone().requires_grad_(values.is_floating_point()) for name, values in shared.items()}
        alone = op(**own, **also)
        sum((one * weight[member]).real.sum() for one, weight in zip(alone, weights, strict=True)).backward()  # type: ignore[union-attr]
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[member], one, rtol=1e-10, atol=1e-12)
        for name, values in leaves.items():
            assert values.grad is not None
            torch.testing.assert_close(values.grad[member], own[name].grad, rtol=1e-9, atol=1e-11)
        for name in shared_grads:
            grad = also[name].grad
            assert grad is not None
            shared_grads[name] += grad
    for name, expected in shared_grads.items():
        torch.testing.assert_close(given_[name].grad, expected, rtol=1e-9, atol=1e-11)


def normal(*shape: int, complex_: bool = False) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128 if complex_ else torch.float64)


def scan_inputs(
    members: int, batch: int, seqlen: int, d_inner: int, d_state: int, *, groups: int = 0, complex_: bool = False
) -> Inputs:
    """Return selective inputs; with `groups`, B and C have so many."""
    positions = (members, batch, seqlen)
    states = (groups, d_state) if groups else (d_state,)
    real = -torch.rand(members, d_inner, d_state, dtype=torch.float64) - 0.1
    return {
        "x": normal(*positions, d_inner),
        "dt": normal(*positions, d_inner),
        "A": torch.complex(real, normal(members, d_inner, d_state)) if complex_ else real,
        "B": normal(*positions, *states, complex_=complex_),
        "C": normal(*positions, *states, complex_=complex_),
        "D": normal(members, d_inner),
        "z": normal(*positions, d_inner),
        "dt_bias": normal(members, d_inner),
    }


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_selective_scan(implementation: Any, complex_: bool, groups: int) -> None:
    torch.manual_seed(0)

    def op(**inputs: Tensor) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation=implementation)

    check(op, scan_inputs(3, 2, 21, 4, 3, groups=groups, complex_=complex_))


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_selective_scan_of_constants_with_a_state_and_resets(implementation: Any) -> None:
    torch.manual_seed(1)
    inputs = scan_inputs(3, 2, 9, 4, 3)
    inputs |= {"dt": normal(3, 4), "B": normal(3, 4, 3), "C": normal(3, 4, 3), "initial_state": normal(3, 2, 4, 3)}
    reset = torch.rand(2, 9) < 0.2

    def op(**values: Tensor) -> tuple[Tensor, ...]:
        return selective_scan(**values, reset=reset, dt_softplus=True, implementation=implementation)

    check(op, inputs)


def test_selective_scan_with_shared_inputs() -> None:
    """What is the same for all members gets the sum of their gradients."""
    torch.manual_seed(2)
    inputs = scan_inputs(3, 2, 12, 4, 3)
    shared = {name: inputs.pop(name)[0] for name in ("x", "A", "D")}

    def op(**values: Tensor) -> tuple[Tensor, ...]:
        return selective_scan(**values, dt_softplus=True, implementation="chunked")

    check(op, inputs, shared)


def test_resets_of_a_member_alone_are_refused() -> None:
    inputs = scan_inputs(2, 1, 5, 2, 2)
    resets = torch.zeros(2, 1, 5, dtype=torch.bool)

    def op(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, reset: Tensor) -> Tensor:
        return selective_scan(x, dt, A, B, C, reset=reset, implementation="chunked").y

    with pytest.raises(UnsupportedError, match="share their resets"):
        torch.vmap(op)(inputs["x"], inputs["dt"], inputs["A"], inputs["B"], inputs["C"], resets)


@given(
    members=st.integers(1, 4),
    batch=st.integers(1, 3),
    seqlen=st.integers(1, 40),
    d_inner=st.integers(1, 5),
    d_state=st.integers(1, 4),
)
@settings(max_examples=25)
def test_selective_scan_of_any_shape(members: int, batch: int, seqlen: int, d_inner: int, d_state: int) -> None:
    """Whatever the blocks and lanes that the shape leads to, which differ between the ensemble and a member alone."""
    torch.manual_seed(seqlen)

    def op(**inputs: Tensor) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation="chunked")

    check(op, scan_inputs(members, batch, seqlen, d_inner, d_state))


@pytest.mark.parametrize("implementation", ["torch", "reference"])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal_conv1d(implementation: Any, activation: Any) -> None:
    torch.manual_seed(3)

    def op(**inputs: Tensor) -> tuple[Tensor, ...]:
        return causal_conv1d(**inputs, activation=activation, implementation=implementation)

    inputs = {"x": normal(3, 2, 7, 5), "weight": normal(3, 5, 4), "bias": normal(3, 5)}
    check(op, inputs)
    check(op, {"x": inputs["x"], "weight": inputs["weight"]})
    check(op, {**inputs, "initial_state": normal(3, 2, 3, 5)})
    check(op, {"x": inputs["x"]}, {"weight": inputs["weight"][0], "bias": inputs["bias"][0]})


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_rms_norm(implementation: Any) -> None:
    """Each member has a weight of its own, or all have one."""
    torch.manual_seed(4)

    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return rms_norm(**inputs, implementation=implementation)

    x, weight, residual = normal(3, 2, 7, 5), normal(3, 5), normal(3, 2, 7, 5)
    check(op, {"x": x, "weight": weight, "residual": residual})
    check(op, {"x": x, "weight": weight})
    check(op, {"x": x}, {"weight": weight[0]})
    check(op, {"weight": weight}, {"x": x[0]})
