"""The parity measure: what it must let through and what it must not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.bench.problems import Problem, causal_conv1d_problem, rms_norm_problem, selective_state_update_problem
from kernels.bench.verify import floor, parity, poisoned_buffers, relative_error, repeats_bitwise


def norm() -> Problem:
    return rms_norm_problem({"batch": 1, "seqlen": 3, "d": 5}, torch.float32, "cpu")


def spoiled(problem: Problem, change: Any) -> Problem:
    """The problem with `change(outputs)` in the way of its plain form, named "spoiled"."""
    right = problem.function

    def function(implementation: str, **arguments: Any) -> Any:
        if implementation != "spoiled":
            return right(**arguments, implementation=implementation)
        return change(right(**arguments, implementation=problem.plain))

    return replace(problem, function=function)


def test_every_output_and_gradient_has_a_row() -> None:
    rows = parity(norm(), "torch")
    assert [row.tensor for row in rows] == ["y", "residual", "dx", "dweight", "dresidual"]
    assert all(row.passed for row in rows)


def test_a_wrong_output_fails() -> None:
    rows = parity(spoiled(norm(), lambda result: (result.y * 1.001, result.residual)), "spoiled")
    failed = {row.tensor for row in rows if not row.passed}
    assert failed == {"y", "dx", "dweight", "dresidual"}


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 1.001


def test_a_wrong_gradient_of_a_right_output_fails() -> None:
    change = lambda result: (_WrongGradient.apply(result.y), result.residual)  # type: ignore[no-untyped-call]  # noqa: E731
    failed = {row.tensor for row in parity(spoiled(norm(), change), "spoiled") if not row.passed}
    assert failed == {"dx", "dweight", "dresidual"}


def test_an_element_that_is_not_written_fails() -> None:
    def unwritten(result: Any) -> tuple[Tensor, Tensor]:
        y = torch.empty(result.y.shape)
        y[:, 1:] = result.y[:, 1:]
        return y, result.residual

    failed = {row.tensor for row in parity(spoiled(norm(), unwritten), "spoiled") if not row.passed}
    assert "y" in failed


def test_a_wrong_state_in_place_fails() -> None:
    step = selective_state_update_problem({"batch": 2, "d_inner": 3, "d_state": 4}, torch.float32, "cpu")
    assert all(row.passed for row in parity(step, "torch"))
    right = step.function

    def forgets(implementation: str, **arguments: Any) -> Tensor:
        state = arguments["state"].clone()
        y: Tensor = right(**arguments, implementation=implementation if implementation != "spoiled" else "torch")
        if implementation == "spoiled":
            arguments["state"].copy_(state)
        return y

    failed = {row.tensor for row in parity(replace(step, function=forgets), "spoiled") if not row.passed}
    assert failed == {"state"}


def test_nan_never_passes() -> None:
    rows = parity(spoiled(norm(), lambda result: (result.y * float("nan"), result.residual)), "spoiled")
    assert not next(row for row in rows if row.tensor == "y").passed


def test_relative_error_by_hand() -> None:
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0], dtype=torch.float64)) == pytest.approx(0.2)
    assert relative_error(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5
    assert relative_error(torch.zeros(2), torch.zeros(3)) == float("inf")


def test_floors_are_a_rounding_of_the_dtype() -> None:
    assert floor(torch.bfloat16) == 2**-9
    assert floor(torch.float16) == 2**-12
    assert floor(torch.float32) == 1e-6


def test_buffers_are_poisoned_only_inside() -> None:
    with poisoned_buffers():
        assert torch.empty(3).isnan().all()
        assert torch.empty_like(torch.ones(2)).isnan().all()
        assert torch.ones(1).new_empty(2, dtype=torch.bfloat16).isnan().all()
        assert torch.empty(2, dtype=torch.int64).shape == (2,)
    torch.empty(3).fill_(1.0)
    assert not torch.empty.__name__.startswith("poisoned")


def test_bits_that_change_are_noticed() -> None:
    assert repeats_bitwise(norm(), "torch")
    calls = iter(range(100))
    shaky = spoiled(norm(), lambda result: (result.y + 1e-6 * next(calls), result.residual))
    assert not repeats_bitwise(shaky, "spoiled")


def test_strided_problems_keep_their_values() -> None:
    whole = causal_conv1d_problem({"batch": 2, "seqlen": 4, "d": 3, "width": 2}, torch.float32, "cpu", reset=True)
    views = whole.strided()
    for name, tensor in whole.tensors.items():
        assert torch.equal(views.tensors[name], tensor)
        assert not views.tensors[name].is_contiguous()


def test_a_problem_in_double_is_the_rounded_one() -> None:
    rounded = rms_norm_problem({"batch": 1, "seqlen": 2, "d": 3}, torch.bfloat16, "cpu")
    assert torch.equal(rounded.to_double().tensors["x"], rounded.tensors["x"].double())
