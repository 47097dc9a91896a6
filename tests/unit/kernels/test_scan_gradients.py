"""The scan's gradients against finite differences in float64, and what only gradients can show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.common.choice import ScanImplementation
from kernels.selective_scan import selective_scan
from tests.unit.kernels.scan_cases import (
    BLOCKS,
    CASES,
    Arguments,
    Blocks,
    ScanCase,
    along_random_direction,
    every_case,
    gradients,
    run,
)

both = pytest.mark.parametrize("implementation", ["reference", "chunked"])


def differentiable(arguments: Arguments) -> dict[str, Tensor]:
    return {
        name: value.requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.dtype != torch.bool
    }


def check(implementation: ScanImplementation, case: ScanCase, *, fast: bool = False, twice: bool = False) -> None:
    arguments = case.arguments(seed=1)
    inputs = differentiable(arguments)

    def scan(*values: Tensor) -> tuple[Tensor, Tensor]:
        out = selective_scan(**{**arguments, **dict(zip(inputs, values, strict=True))}, implementation=implementation)
        return out.y, out.final_state

    assert torch.autograd.gradcheck(scan, list(inputs.values()), fast_mode=fast)
    if twice:
        assert torch.autograd.gradgradcheck(scan, list(inputs.values()))


@both
@every_case
def test_gradients_are_those_of_finite_differences(case: ScanCase, implementation: ScanImplementation) -> None:
    """The chunked form along random directions, which costs less: it also equals the reference, test_scan_values says."""
    small = case.with_(batch=1 if case.is_complex else case.batch, seqlen=min(case.seqlen, 3))
    with Blocks(elements=1, positions=2).set():
        check(implementation, small, fast=implementation == "chunked")


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("name", ["all", "constant-b-c", "complex"])
def test_so_they_are_however_the_sequence_is_cut(name: str, blocks: Blocks) -> None:
    with blocks.set():
        check("chunked", CASES[name].with_(batch=1, seqlen=5, d_inner=2, b_groups=min(CASES[name].b_groups, 0)))


def test_the_reference_can_be_differentiated_twice() -> None:
    check("reference", ScanCase(batch=1, seqlen=2, d_inner=2, d_state=1), twice=True)


@both
@pytest.mark.parametrize("wanted", ["x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state"])
def test_one_gradient_alone_is_the_same(wanted: str, implementation: ScanImplementation) -> None:
    arguments = CASES["all"].arguments()
    value = arguments[wanted].requires_grad_()
    (alone,) = torch.autograd.grad(along_random_direction(run(arguments, implementation)), value)
    torch.testing.assert_close(alone, gradients(implementation, arguments)[wanted])


@both
def test_nothing_of_the_past_is_learnt_through_a_reset(implementation: ScanImplementation) -> None:
    """Also where the past has gone to infinity, which a product with zero would not keep out."""
    arguments = CASES["resets-without-state"].arguments()
    arguments["reset"] = torch.zeros(2, 7, dtype=torch.bool)
    arguments["reset"][:, 4] = True
    poisoned = {**arguments, "x": arguments["x"].clone()}
    poisoned["x"][:, 1] = float("inf")
    x = poisoned["x"].requires_grad_()
    y = run(poisoned, implementation).y
    torch.testing.assert_close(y[:, 4:], run(arguments, implementation).y[:, 4:])
    (dx,) = torch.autograd.grad(y[:, 4:].sum(), x)
    assert torch.equal(dx[:, :4], torch.zeros_like(dx[:, :4]))
    assert dx[:, 4:].isfinite().all()


@both
def test_gradients_of_the_final_state_alone(implementation: ScanImplementation) -> None:
    arguments = CASES["all"].arguments()
    inputs = differentiable(arguments)
    final = run(arguments, implementation).final_state
    grads = dict(zip(inputs, torch.autograd.grad(final.sum(), list(inputs.values()), allow_unused=True), strict=True))
    unused = {name for name, grad in grads.items() if grad is None or not grad.any()}
    assert unused == {"C", "D", "z"}
