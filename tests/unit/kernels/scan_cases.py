"""Arguments of the scan in every form, and small blocks, so that few positions exercise every path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from kernels.common.choice import ScanImplementation
from kernels.selective_scan import ScanOutput, chunked, selective_scan

Arguments = dict[str, Any]


@dataclass(frozen=True)
class ScanCase:
    """One form of each argument. `groups` of B and C: 0 is (batch, seqlen, d_state), -1 is constant (d_inner, d_state)."""

    batch: int = 2
    seqlen: int = 7
    d_inner: int = 4
    d_state: int = 2
    b_groups: int = 0
    c_groups: int = 0
    constant_dt: bool = False
    is_complex: bool = False
    softplus: bool = True
    bias: bool = True
    skip: bool = True
    gate: bool = True
    initial: bool = True
    resets: bool = False

    def with_(self, **changes: Any) -> ScanCase:
        return replace(self, **changes)

    def arguments(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Arguments:
        """Return random arguments for `selective_scan`. Real parts of A are negative, dt is positive."""
        generator = torch.Generator().manual_seed(seed)
        dtypes = {False: dtype, True: dtype.to_complex()}

        def normal(*shape: int, is_complex: bool = False) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) + (
                1j * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) if is_complex else 0
            )

        def state_input(groups: int) -> Tensor:
            middle = () if groups == 0 else (groups,)
            shape = (self.d_inner,) if groups < 0 else (self.batch, self.seqlen, *middle)
            return normal(*shape, self.d_state, is_complex=self.is_complex)

        x = normal(self.batch, self.seqlen, self.d_inner)
        dt = normal(self.d_inner) if self.constant_dt else normal(*x.shape)
        A = -normal(self.d_inner, self.d_state).abs()
        A = torch.complex(A, normal(self.d_inner, self.d_state)) if self.is_complex else A
        state = normal(self.batch, self.d_inner, self.d_state, is_complex=self.is_complex)
        reset = torch.rand(self.batch, self.seqlen, generator=generator) < 0.3
        assert state.dtype == dtypes[self.is_complex]
        return {
            "x": x,
            "dt": dt if self.softplus else dt.abs(),
            "A": A,
            "B": state_input(self.b_groups),
            "C": state_input(self.c_groups),
            "D": normal(self.d_inner) if self.skip else None,
            "z": normal(*x.shape) if self.gate else None,
            "dt_bias": normal(self.d_inner).abs() if self.bias else None,
            "dt_softplus": self.softplus,
            "initial_state": state if self.initial else None,
            "reset": reset if self.resets else None,
        }


CASES: dict[str, ScanCase] = {
    "all": ScanCase(),
    "bare": ScanCase(softplus=False, bias=False, skip=False, gate=False, initial=False),
    "resets": ScanCase(resets=True),
    "resets-without-state": ScanCase(resets=True, initial=False),
    "one-group": ScanCase(b_groups=1, c_groups=1),
    "two-groups": ScanCase(b_groups=2, c_groups=2),
    "group-a-channel": ScanCase(b_groups=4, c_groups=4),
    "groups-differ": ScanCase(b_groups=2, c_groups=4),
    "coprime-groups": ScanCase(b_groups=2, c_groups=3, d_inner=6, seqlen=3),
    "constant-b": ScanCase(b_groups=-1),
    "constant-c": ScanCase(c_groups=-1),
    "constant-b-c": ScanCase(b_groups=-1, c_groups=-1),
    "constant-b-grouped-c": ScanCase(b_groups=-1, c_groups=2),
    "constant-c-group-a-channel": ScanCase(b_groups=4, c_groups=-1, resets=True),
    "constant-dt": ScanCase(constant_dt=True),
    "constant-dt-without-bias": ScanCase(constant_dt=True, bias=False, softplus=False),
    "complex": ScanCase(is_complex=True, seqlen=5),
    "complex-groups": ScanCase(is_complex=True, seqlen=3, b_groups=2, c_groups=2),
    "complex-constant": ScanCase(is_complex=True, seqlen=3, b_groups=-1, c_groups=-1, constant_dt=True),
    "complex-resets": ScanCase(is_complex=True, seqlen=5, resets=True),
    "no-skip": ScanCase(skip=False, seqlen=3),
    "no-gate": ScanCase(gate=False, seqlen=3),
    "no-softplus": ScanCase(softplus=False, seqlen=3),
    "one-position": ScanCase(seqlen=1),
    "one-of-each": ScanCase(batch=1, seqlen=1, d_inner=1, d_state=1),
    "one-state": ScanCase(d_state=1, seqlen=3),
    "one-channel": ScanCase(d_inner=1, seqlen=3, b_groups=-1, c_groups=1),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@dataclass(frozen=True)
class Blocks:
    """How the chunked form cuts: elements of a block, least positions, states of a position below which lanes are used."""

    elements: int = 2**18
    positions: int = 16
    lane_states: int = 0

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        """Cut so while inside."""
        with (
            patch.object(chunked, "_BLOCK_ELEMENTS", self.elements),
            patch.object(chunked, "_BLOCK_POSITIONS", self.positions),
            patch.object(chunked, "_LANE_STATES", self.lane_states),
        ):
            yield


BLOCKS = {
    "whole": Blocks(),
    "pairs": Blocks(elements=1, positions=2),
    "single": Blocks(elements=1, positions=1),
    "lanes": Blocks(lane_states=2**30),
    "blocks-of-lanes": Blocks(elements=1, positions=4, lane_states=2**30),
}


def gradients(implementation: ScanImplementation, arguments: Arguments, seed: int = 0) -> dict[str, Tensor]:
    """Return y, the final state and the gradient of every floating argument, for one random direction of both outputs."""
    inputs = {
        name: value.detach().clone().requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.dtype != torch.bool
    }
    out = selective_scan(**{**arguments, **inputs}, implementation=implementation)
    loss = along_random_direction(out, seed)
    grads = torch.autograd.grad(loss.real, list(inputs.values()))
    return {"y": out.y.detach(), "final_state": out.final_state.detach(), **dict(zip(inputs, grads, strict=True))}


def along_random_direction(out: ScanOutput, seed: int = 0) -> Tensor:
    """Return the sum of both outputs weighted by random numbers, which every dtype holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(value.shape, generator=generator).bfloat16() for value in out)
    loss = sum((value * weight.to(value.dtype)).sum() for value, weight in zip(out, weights, strict=True))
    assert isinstance(loss, Tensor)
    return loss


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-11) -> None:
    """Compare by name, with the tolerance relative to the largest value of each tensor."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        worst = (got[name] - value).abs().max().item()
        assert worst <= tolerance * scale, f"{name} differs by {worst}, allowed is {tolerance * scale}"


def run(arguments: Arguments, implementation: ScanImplementation = "chunked", **changes: Any) -> ScanOutput:
    """Run the scan with some arguments changed."""
    return selective_scan(**{**arguments, **changes}, implementation=implementation)


def at(arguments: Arguments, *index: slice) -> Arguments:
    """Return the arguments for some of the batch and of the positions; what has neither stays."""
    along = {"x", "z", "reset"} | {name for name in ("dt", "B", "C") if arguments[name].dim() >= 3}
    cut = {name: arguments[name] if arguments[name] is None else arguments[name][index] for name in along}
    state = arguments["initial_state"]
    return {**arguments, **cut, "initial_state": None if state is None else state[index[0]]}


def halves_of(checkpoints: Tensor) -> Tensor:
    """A scan's checkpoints, (batch, tiles, d_state, d_inner), as the forward keeps them in halves (triton_checkpoints)."""
    *sizes, d_inner = checkpoints.shape
    runs = checkpoints.view(*sizes, d_inner // 128, 2, 64)
    return runs.transpose(-3, -2).reshape(*sizes, 2, d_inner // 2).clone()
