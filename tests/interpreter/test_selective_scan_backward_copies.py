"""The backward scan that copies its inputs ahead, under the interpreter: the float64 reference's gradients, and when it serves."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels.selective_scan import triton_bwd_main
from kernels.selective_scan.triton_bwd_plan import Plan
from kernels.selective_scan.triton_bwd_plan import Problem as ScanProblem
from tests.interpreter.test_selective_scan_backward import Problem, make

pytestmark = pytest.mark.interpreter

ROUNDED = ("x", "dt", "B", "C", "z")
HALF_ROUNDING = (
    4.0e-4  # of a norm: rounding every element to fp16 costs up to half of 2**-10, and 2.8e-4 in the mean square
)
FP32_TOLERANCE = 2e-6


def halve(problem: Problem) -> Problem:
    """The same with 16-bit rows, and without resets."""
    inputs = {
        name: value.half() if name in ROUNDED and value is not None else value for name, value in problem.inputs.items()
    }
    return replace(problem, inputs=inputs, dy=problem.dy.half(), reset=None)


@pytest.mark.parametrize(
    ("problem", "plan"),
    [
        (make(96, 128, 16), Plan(warps=8, channels=2, chunks=1, chunk_tiles=3, piece_steps=32)),
        (make(96, 128, 8, ngroups=2), Plan(warps=4, channels=2, chunks=2, chunk_tiles=2, piece_steps=32)),
        (make(64, 64, 16, options=False), Plan(warps=4, channels=2, chunks=1, chunk_tiles=2, piece_steps=32)),
    ],
    ids=["two-blocks-of-states", "groups-and-chunks", "bare"],
)
def test_gradients_equal_the_reference(problem: Problem, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[bool] = []
    serves = triton_bwd_main.serves_copies

    def noted(given: ScanProblem, plan: Plan, *, masked: bool) -> bool:
        served.append(serves(given, plan, masked=masked))
        return served[-1]

    monkeypatch.setattr(triton_bwd_main, "serves_copies", noted)
    problem = halve(problem)
    gradients = problem.gradients(plan)
    assert served == [True]
    reference = problem.reference()
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None:
            assert problem.inputs[name] is None
            continue
        error = (gradient.double() - reference[name]).norm() / reference[name].norm()
        assert error < (HALF_ROUNDING if name in ROUNDED else FP32_TOLERANCE), f"{name}: {error:.2e}"


def shifted(value: Tensor) -> Tensor:
    """The same values two bytes past a multiple of sixteen."""
    place = torch.empty(value.numel() + 1, dtype=value.dtype)[1:].view(value.shape)
    return place.copy_(value)


@pytest.mark.parametrize("change", ["address", "resets", "part of a tile", "fp32", "states", "warps", "threads"])
def test_what_it_cannot_read_goes_to_the_other_kernel(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_bwd_main, "_run_with_copies", None)
    wide = change == "threads"  # more of them than copies of B and C
    drawn = make(33 if change == "part of a tile" else 32, 128 if wide else 64, 3 if change == "states" else 8)
    problem = drawn if change == "fp32" else halve(drawn)
    if change == "address":
        x = problem.inputs["x"]
        assert x is not None
        problem = replace(problem, inputs={**problem.inputs, "x": shifted(x)})
    if change == "resets":
        problem = replace(problem, reset=drawn.reset)
    warps = {"warps": 2, "threads": 8}.get(change, 4)
    gradients = problem.gradients(Plan(warps=warps, channels=2, chunks=1, chunk_tiles=2, piece_steps=32))
    error = (gradients.A.double() - problem.reference()["A"]).norm() / problem.reference()["A"].norm()
    assert error < FP32_TOLERANCE
