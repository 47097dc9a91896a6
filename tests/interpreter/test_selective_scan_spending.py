"""The backward scan whose partial sums take the place of the checkpoints, under the interpreter: same bits, and only where nothing
reads the checkpoints again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from kernels.selective_scan import triton_bwd_launch
from kernels.selective_scan.triton_bwd_launch import Gradients, scan_backward
from kernels.selective_scan.triton_bwd_plan import Plan
from kernels.selective_scan.triton_op import selective_scan_backward_spending, selective_scan_triton
from tests.interpreter.test_selective_scan_backward import Problem, make
from tests.interpreter.test_selective_scan_backward_copies import halve

pytestmark = pytest.mark.interpreter

PLAN = Plan(warps=4, channels=2, chunks=1, chunk_tiles=2, piece_steps=32)
"""64 channels a program: as many floats of a state's row as its sums of dB and dC take."""


def backward(problem: Problem, checkpoints: Tensor, plan: Plan, *, spend: bool) -> Gradients:
    inputs: dict[str, Any] = dict(problem.inputs)
    return scan_backward(
        problem.dy,
        problem.dfinal,
        **inputs,
        dt_softplus=problem.dt_softplus,
        reset=problem.reset,
        checkpoints=checkpoints,
        plan=plan,
        spend=spend,
    )


@pytest.mark.parametrize(
    ("problem", "plan"),
    [
        (halve(make(32, 128, 16)), replace(PLAN, warps=8)),
        (halve(make(64, 128, 8, ngroups=2, options=False)), PLAN),
        (make(5, 64, 17), PLAN),
        (make(33, 128, 2, ngroups=2), replace(PLAN, chunks=2, chunk_tiles=1)),
        (make(5, 64, 2, constant="B"), PLAN),
    ],
    ids=["copies-half-a-row", "copies-groups", "two-blocks-of-states", "chunks-groups", "constant-B"],
)
def test_sums_over_the_checkpoints_are_the_same(problem: Problem, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    new_empty = Tensor.new_empty

    def counted(self: Tensor, *size: Any, **keywords: Any) -> Tensor:
        made = new_empty(self, *size, **keywords)
        taken.append(made.numel())
        return made

    checkpoints = problem.checkpoints()
    kept = checkpoints.clone()
    monkeypatch.setattr(Tensor, "new_empty", counted)
    apart = backward(problem, checkpoints, plan, spend=False)
    taken_apart = sum(taken)
    assert torch.equal(checkpoints, kept)
    taken.clear()
    over = backward(problem, checkpoints, plan, spend=True)
    assert not torch.equal(checkpoints, kept), "the sums went elsewhere"
    batch, tiles, states, channels = checkpoints.shape
    assert taken_apart - sum(taken) == batch * tiles * states * channels // (16 * plan.warps) * 2 * 32
    for name, first, second in zip(Gradients._fields, apart, over, strict=True):
        assert (first is None) == (second is None), name
        assert first is None or second is None or torch.equal(first, second), name


@pytest.mark.parametrize(
    ("problem", "plan"),
    [
        (make(5, 96, 2), PLAN),
        (make(5, 64, 2), replace(PLAN, warps=2)),
        (make(5, 64, 2, constant="BC"), PLAN),
    ],
    ids=["part-of-a-program", "narrow", "nothing-to-sum"],
)
def test_checkpoints_without_room_are_left_alone(problem: Problem, plan: Plan) -> None:
    checkpoints = problem.checkpoints()
    kept = checkpoints.clone()
    gradients = backward(problem, checkpoints, plan, spend=True)
    assert torch.equal(checkpoints, kept)
    reference = problem.reference()["B"]
    assert (gradients.B.double() - reference).norm() < 2e-6 * reference.norm()


@pytest.fixture
def ran(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As in all files, in programs of 64 channels."""
    monkeypatch.setattr(triton_bwd_launch, "plan_backward", lambda *_: PLAN)
    return ran


def scan() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A loss that depends on x through the scan, and x."""
    inputs = make(5, 64, 2).inputs
    x, dt, A, B, C = (value for name in ("x", "dt", "A", "B", "C") if (value := inputs[name]) is not None)

    def loss(x: Tensor) -> Tensor:
        y, final = selective_scan_triton(x, dt, A, B * x[:, :, :2], C, dt_softplus=True)
        return y.square().sum() + final.sum()

    return loss, x.clone().requires_grad_()


def test_a_graph_that_is_kept_keeps_its_checkpoints(ran: list[str]) -> None:
    loss, x = scan()
    value = loss(x)
    found = [torch.autograd.grad(value, x, retain_graph=keep)[0] for keep in (True, True, False)]
    assert ran == ["", "", "spending"]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_compiled_and_traced_backwards_keep_them(ran: list[str]) -> None:
    loss, x = scan()
    (expected,) = torch.autograd.grad(loss(x), x)
    assert ran == ["spending"]
    ran.clear()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    traced = make_fx(lambda x: torch.autograd.grad(loss(x), x)[0])(x)
    found = [
        torch.autograd.grad(compiled(x), x)[0],
        traced(x),
        traced(x),
    ]
    assert "spending" not in ran
    assert all(torch.equal(gradient, expected) for gradient in found)


def test_recomputed_checkpoints_are_spent(ran: list[str]) -> None:
    loss, x = scan()
    (expected,) = torch.autograd.grad(loss(x), x)
    value = torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False)
    first, second = (torch.autograd.grad(value, x, retain_graph=keep)[0] for keep in (True, False))
    assert ran == ["spending", "", "spending"]
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_the_operator_is_registered_soundly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_bwd_launch, "plan_backward", lambda *_: PLAN)
    problem = make(5, 64, 2)
    x, dt, A, B, C, D, z, bias, initial = (problem.inputs[name] for name in Gradients._fields)
    arguments = (x, dt, A, B, C, D, z, bias, problem.dt_softplus, initial, problem.reset, problem.checkpoints())
    torch.library.opcheck(selective_scan_backward_spending, (problem.dy, problem.dfinal, *arguments))
