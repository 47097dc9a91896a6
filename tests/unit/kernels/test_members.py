"""Every plain op under `torch.vmap` gives each member of an ensemble what it gets alone, outputs and gradients."""

from __future__ import annotations

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
from tests.unit.kernels.members import check_members, conv_inputs, norm_inputs, scan_inputs


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_selective_scan(implementation: Any, is_complex: bool, groups: int) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation=implementation)

    check_members(op, scan_inputs(3, 2, 21, 4, 3, groups=groups, is_complex=is_complex))


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_selective_scan_of_constants_with_a_state_and_resets(implementation: Any) -> None:
    inputs = scan_inputs(3, 2, 9, 4, 3)
    constants = {"dt": (3, 4), "B": (3, 4, 3), "C": (3, 4, 3), "initial_state": (3, 2, 4, 3)}
    inputs |= {name: torch.randn(shape, dtype=torch.float64) for name, shape in constants.items()}
    reset = torch.rand(2, 9) < 0.2

    def op(**values: Any) -> tuple[Tensor, ...]:
        return selective_scan(**values, reset=reset, dt_softplus=True, implementation=implementation)

    check_members(op, inputs)


def test_selective_scan_with_shared_inputs() -> None:
    """What is the same for all members gets the sum of their gradients."""
    inputs = scan_inputs(3, 2, 12, 4, 3)
    shared = {name: inputs.pop(name)[0] for name in ("x", "A", "D")}

    def op(**values: Any) -> tuple[Tensor, ...]:
        return selective_scan(**values, dt_softplus=True, implementation="chunked")

    check_members(op, inputs, shared)


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

    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation="chunked")

    check_members(op, scan_inputs(members, batch, seqlen, d_inner, d_state))


@pytest.mark.parametrize("implementation", ["torch", "reference"])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal_conv1d(implementation: Any, activation: Any) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return causal_conv1d(**inputs, activation=activation, implementation=implementation)

    inputs = conv_inputs(3, 2, 7, 5, 4)
    check_members(op, inputs)
    check_members(op, {"x": inputs["x"], "weight": inputs["weight"]})
    check_members(op, {**inputs, "initial_state": torch.randn(3, 2, 3, 5, dtype=torch.float64)})
    check_members(op, {"x": inputs["x"]}, {"weight": inputs["weight"][0], "bias": inputs["bias"][0]})


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_rms_norm(implementation: Any) -> None:
    """Each member has a weight of its own, or all have one."""

    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return rms_norm(**inputs, implementation=implementation)

    inputs = norm_inputs(3, 2, 7, 5)
    x, weight = inputs["x"], inputs["weight"]
    check_members(op, inputs)
    check_members(op, {"x": x, "weight": weight})
    check_members(op, {"x": x}, {"weight": weight[0]})
    check_members(op, {"weight": weight}, {"x": x[0]})
