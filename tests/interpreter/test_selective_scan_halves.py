"""The backward scan whose gradients take the place of the checkpoints, under the interpreter: checkpoints in halves, short sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.selective_scan import triton_bwd_launch, triton_launch
from kernels.selective_scan.triton_bwd_launch import Gradients
from kernels.selective_scan.triton_bwd_plan import Plan
from kernels.selective_scan.triton_checkpoints import in_halves
from kernels.selective_scan.triton_layout import Configuration
from kernels.selective_scan.triton_op import (
    selective_scan_backward,
    selective_scan_backward_spending,
    selective_scan_forward,
    selective_scan_triton,
)
from tests.interpreter.test_selective_scan_backward import Problem, make
from tests.interpreter.test_selective_scan_backward_copies import halve
from tests.interpreter.test_selective_scan_spending import backward
from tests.unit.kernels.scan_cases import halves_of

pytestmark = pytest.mark.interpreter

PLAN = Plan(warps=8, channels=2, chunks=1, chunk_tiles=2, piece_steps=32)
"""128 channels a program."""
NAMES = Gradients._fields


def arguments_of(problem: Problem) -> tuple[Any, ...]:
    x, dt, A, B, C, D, z, bias, initial = (problem.inputs[name] for name in NAMES)
    return x, dt, A, B, C, D, z, bias, problem.dt_softplus, initial, problem.reset


@pytest.mark.parametrize(
    ("problem", "plan"),
    [
        (halve(make(5, 256, 64, ngroups=2)), PLAN),
        (halve(make(33, 128, 64, options=False)), replace(PLAN, chunks=2, chunk_tiles=1)),
        (replace(halve(made := make(3, 128, 128)), reset=made.reset), PLAN),
    ],
    ids=["groups", "bare-chunks", "128-states-resets"],
)
def test_gradients_over_the_checkpoints_are_the_same(problem: Problem, plan: Plan) -> None:
    plain = problem.checkpoints()
    checkpoints = halves_of(plain)
    assert not torch.equal(checkpoints.view(plain.shape), plain) or plain.shape[-1] == 128
    kept = checkpoints.clone()
    apart = backward(problem, checkpoints, plan, spend=False)
    assert torch.equal(checkpoints, kept)
    over = backward(problem, checkpoints, plan, spend=True)
    place = checkpoints.untyped_storage().data_ptr()
    for name, first, second in zip(NAMES, apart, over, strict=True):
        assert (first is None) == (second is None), name
        if first is not None and second is not None:
            assert torch.equal(first, second), name
            assert (second.untyped_storage().data_ptr() == place) == (name in ("x", "dt", "z")), name
    # Beside the same backward from checkpoints as they lie, whose sums have 32 bits: only dB and dC may differ, by their rounding.
    whole = backward(problem, plain, plan, spend=False)
    for name, first, second in zip(NAMES, apart, whole, strict=True):
        if name in ("B", "C"):
            assert first is not None
            assert second is not None
            assert (first.double() - second.double()).norm() < 2**-12 * second.double().norm(), name
        else:
            assert first is None or second is None or torch.equal(first, second), name


def test_programs_of_fewer_channels_leave_the_checkpoints_alone() -> None:
    problem = halve(make(3, 128, 64))
    plan = replace(PLAN, warps=4)
    plain = problem.checkpoints()
    checkpoints = halves_of(plain)
    kept = checkpoints.clone()
    found = backward(problem, checkpoints, plan, spend=True)
    assert torch.equal(checkpoints, kept)
    for name, first, second in zip(NAMES, found, backward(problem, plain, plan, spend=False), strict=True):
        assert first is None or second is None or torch.equal(first, second), name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's
def test_short_sums_keep_what_is_not_finite() -> None:
    problem = halve(make(3, 128, 64, options=False))
    problem.dy[0, 1, 5] = float("inf")
    found = backward(problem, halves_of(problem.checkpoints()), PLAN, spend=True)
    assert not found.B[0, 1].isfinite().any()
    assert not found.C[0, 1].isfinite().any()


def test_zeros_stay_zeros() -> None:
    problem = halve(make(3, 128, 64, options=False))
    found = backward(
        replace(problem, dy=torch.zeros_like(problem.dy)), halves_of(problem.checkpoints()), PLAN, spend=True
    )
    assert all(gradient is None or not gradient.any() for gradient in found)


@pytest.fixture
def a_wide_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of 128 channels forwards too: with the table's 8 the interpreter takes eight times as long, and keeps the same."""
    wide = Configuration(blocks=1, steps=8, channels=1, warps=4)
    monkeypatch.setattr(triton_launch, "configuration", lambda _: wide)


@pytest.mark.usefixtures("a_wide_forward")
def test_the_forward_keeps_halves() -> None:
    problem = halve(make(1, 256, 64, ngroups=2))
    kept = selective_scan_forward(*arguments_of(problem), True)
    initial = problem.inputs["initial_state"]
    assert initial is not None
    assert torch.equal(kept[2], halves_of(initial.transpose(1, 2)[:, None].contiguous()))
    with FakeTensorMode() as mode:
        fakes = (mode.from_tensor(v) if isinstance(v, Tensor) else v for v in arguments_of(problem))
        assert [value.shape for value in selective_scan_forward(*fakes, True)] == [value.shape for value in kept]


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (halve(make(1, 128, 64)), True),
        (halve(make(1, 384, 192, ngroups=3)), True),
        (make(1, 128, 64), False),
        (halve(make(1, 128, 64, constant="dt")), False),
        (halve(make(1, 128, 64, constant="B")), False),
        (halve(make(1, 128, 48)), False),
        (halve(make(1, 128, 64, ngroups=2)), False),
    ],
    ids=["64-states", "192-states-groups", "fp32", "constant-dt", "constant-B", "48-states", "groups-of-64"],
)
def test_which_problems_have_halves(problem: Problem, expected: bool) -> None:
    x, dt, A, B, C, _, z, *_ = arguments_of(problem)
    assert in_halves(x, dt, A, B, C, z) == expected


@pytest.fixture
def ran(ran: list[str], monkeypatch: pytest.MonkeyPatch, a_wide_forward: None) -> list[str]:
    """As in all files, in programs of 128 channels."""
    monkeypatch.setattr(triton_bwd_launch, "plan_backward", lambda *_: PLAN)
    return ran


def test_autograd_returns_what_lies_there(ran: list[str]) -> None:
    """Through what a block does with such gradients: a gate split off a projection, products, a parameter of x's own shape."""
    inputs = halve(make(5, 128, 64)).inputs
    x, dt, A, B, C, D, z, bias = (inputs[name] for name in NAMES[:8])
    assert x is not None
    assert dt is not None
    assert A is not None
    assert B is not None
    assert C is not None
    assert z is not None
    both = torch.cat([x, z], dim=-1).requires_grad_()
    low, matrix = dt[:, :, :4].clone().requires_grad_(), (0.1 * torch.ones(128, 4)).half().requires_grad_()
    leaves = (both, low, matrix)
    u, gate = both.chunk(2, dim=-1)
    steps = torch.nn.functional.linear(low, matrix)
    y, _ = selective_scan_triton(u.contiguous() * 1.0, steps, A, B, C, D, gate, bias, True)
    first, second = (torch.autograd.grad(y.sum(), leaves, retain_graph=keep) for keep in (True, False))
    assert ran == ["", "spending"]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_gradients_that_lie_there_are_independent(ran: list[str]) -> None:
    """A leaf keeps its own, contiguous; and a change of one gradient is no change of another that autograd has saved."""
    problem = halve(make(3, 128, 64))
    x, dt, A, B, C, D, z, bias = (problem.inputs[name] for name in NAMES[:8])
    assert x is not None
    assert dt is not None
    assert A is not None
    assert B is not None
    assert C is not None
    x, dt = x.clone().requires_grad_(), dt.clone().requires_grad_()
    y, _ = selective_scan_triton(x, dt, A, B, C, D, z, bias, True)
    dx, ddt = torch.autograd.grad(y.sum(), (x, dt))
    assert ran == ["spending"]
    assert not dx.is_contiguous()
    weight = torch.ones_like(dx, requires_grad=True)
    saved = dx.clone()
    loss = (dx * weight).sum()
    ddt.zero_()
    (found,) = torch.autograd.grad(loss, weight)
    assert torch.equal(found, saved)
    y, _ = selective_scan_triton(x, dt, A, B, C, D, z, bias, True)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.is_contiguous()
    assert torch.equal(x.grad, saved)


def test_the_operators_are_registered_soundly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_bwd_launch, "plan_backward", lambda *_: PLAN)
    problem = halve(make(3, 128, 64))
    checkpoints = halves_of(problem.checkpoints())
    for op in (selective_scan_backward, selective_scan_backward_spending):
        torch.library.opcheck(
            op,
            (problem.dy, problem.dfinal, *arguments_of(problem), checkpoints),
            test_utils=("test_schema", "test_faketensor"),
        )
