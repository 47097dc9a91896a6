"""The decode step: by hand, gradients, dtypes, errors. That it equals the scan is shown in test_scan_properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.common import ShapeError, UnsupportedError
from kernels.common.choice import Implementation
from kernels.selective_scan import selective_scan
from kernels.selective_state_update import selective_state_update
from tests.unit.kernels.scan_cases import ScanCase

both = pytest.mark.parametrize("implementation", ["reference", "torch"])
FORMS = {
    "all": ScanCase(seqlen=1),
    "bare": ScanCase(seqlen=1, softplus=False, bias=False, skip=False, gate=False),
    "groups": ScanCase(seqlen=1, b_groups=2, c_groups=4),
    "constant-dt": ScanCase(seqlen=1, constant_dt=True),
    "complex": ScanCase(seqlen=1, is_complex=True),
}
every_form = pytest.mark.parametrize("case", FORMS.values(), ids=FORMS)


def step_arguments(case: ScanCase, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Return the arguments of a scan of one position without that dimension, its initial state as the state."""
    scan = case.arguments(dtype=dtype)
    state, _ = scan.pop("initial_state"), scan.pop("reset")
    return {"state": state} | {
        name: value[:, 0] if isinstance(value, Tensor) and value.dim() >= 3 else value for name, value in scan.items()
    }


@both
def test_a_step_by_hand(implementation: Implementation) -> None:
    """exp(dt A) = 1/2: h = 0.5 * 4 + 1 * 2 * 3 = 8; y = (8 * 1 + 10 * 3) * silu(1)."""
    state = torch.tensor([[[4.0]]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    y = selective_state_update(
        state,
        3 * one,
        one,
        -math.log(2) * one,
        2 * one,
        one,
        D=10 * one[0],
        z=one,
        implementation=implementation,
    )
    assert state.item() == pytest.approx(8.0, rel=1e-15)
    assert y.item() == pytest.approx(38 / (1 + math.exp(-1)), rel=1e-15)


@both
@every_form
def test_gradients_are_those_of_finite_differences(case: ScanCase, implementation: Implementation) -> None:
    arguments = step_arguments(case)
    inputs = {name: value.requires_grad_() for name, value in arguments.items() if isinstance(value, Tensor)}

    def step(*values: Tensor) -> tuple[Tensor, Tensor]:
        given = {**arguments, **dict(zip(inputs, values, strict=True))}
        state = given["state"].clone()
        y = selective_state_update(**{**given, "state": state}, implementation=implementation)
        return y, state

    assert torch.autograd.gradcheck(step, list(inputs.values()))


def test_gradients_go_through_several_steps() -> None:
    arguments = ScanCase(seqlen=4, initial=False, bias=False).arguments()
    A = arguments["A"].requires_grad_()
    state = torch.zeros(2, 4, 2, dtype=torch.float64)
    ys = [
        selective_state_update(
            state,
            arguments["x"][:, t],
            arguments["dt"][:, t],
            A,
            arguments["B"][:, t],
            arguments["C"][:, t],
            dt_softplus=True,
        )
        for t in range(4)
    ]
    (got,) = torch.autograd.grad(torch.stack(ys, dim=1).square().sum(), A)
    scan = {**arguments, "D": None, "z": None}
    (expected,) = torch.autograd.grad(selective_scan(**scan, implementation="reference").y.square().sum(), A)
    torch.testing.assert_close(got, expected)


@both
@pytest.mark.parametrize("grad", [False, True], ids=["no-grad", "grad"])
def test_the_state_is_changed_in_place_and_nothing_else(implementation: Implementation, grad: bool) -> None:
    arguments = step_arguments(FORMS["all"])
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}
    view = arguments["state"][:1]
    with torch.set_grad_enabled(grad):
        selective_state_update(**arguments, implementation=implementation)
    assert not torch.equal(view, before["state"][:1])
    for name in before.keys() - {"state"}:
        assert torch.equal(arguments[name], before[name]), name


@both
def test_a_constant_b_is_a_group_a_channel(implementation: Implementation) -> None:
    """Also where batch and d_inner are equal, so that its shape alone would not tell."""
    scan = ScanCase(batch=4, seqlen=1, b_groups=-1, c_groups=-1).arguments()
    expected = selective_scan(**scan, implementation="reference")
    state = scan["initial_state"].clone()
    y = selective_state_update(
        state,
        scan["x"][:, 0],
        scan["dt"][:, 0],
        scan["A"],
        scan["B"].expand(4, -1, -1),
        scan["C"].expand(4, -1, -1),
        D=scan["D"],
        z=scan["z"][:, 0],
        dt_bias=scan["dt_bias"],
        dt_softplus=True,
        implementation=implementation,
    )
    torch.testing.assert_close(y, expected.y[:, 0])
    torch.testing.assert_close(state, expected.final_state)


@both
def test_bf16_activations_advance_an_fp32_state(implementation: Implementation) -> None:
    arguments = step_arguments(FORMS["all"], torch.float32)
    half = {name: arguments[name].bfloat16() for name in ("x", "dt", "B", "C", "z")}
    given = {**arguments, **half}
    exact: dict[str, Any] = {n: v.double() if isinstance(v, Tensor) else v for n, v in given.items()}
    expected = selective_state_update(**exact, implementation="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_state_update(**given, implementation=implementation)
    assert (y.dtype, arguments["state"].dtype) == (torch.bfloat16, torch.float32)
    assert (y.double() - expected).abs().max() <= 2**-8 * expected.abs().max()
    torch.testing.assert_close(arguments["state"].double(), exact["state"], rtol=0, atol=1e-6)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": zeros(2, 1, 4)}, ShapeError, r"x must have shape \(batch, d_inner\), got \(2, 1, 4\)"),
        ({"x": zeros(2, 0)}, ShapeError, r"x must have d_inner >= 1, got d_inner=0"),
        ({"dt": zeros(2, 3)}, ShapeError, r"dt must have shape \(batch=2, d_inner=4\), got \(2, 3\)"),
        ({"dt": zeros(3)}, ShapeError, r"dt must have shape \(d_inner=4\), got \(3,\)"),
        ({"A": zeros(3, 3)}, ShapeError, r"A must have shape \(d_inner=4, d_state=3\), got \(3, 3\)"),
        ({"state": zeros(2, 3, 4)}, ShapeError, r"state must have shape \(batch=2, d_inner=4, d_state=3\)"),
        (
            {"state": zeros(2, 4, 3).bfloat16()},
            UnsupportedError,
            r"state must have dtype float32 or float64, got bfloat16",
        ),
        ({"x": zeros(2, 4).double()}, UnsupportedError, r"state must have dtype float64, got float32"),
        ({"A": zeros(4, 3) + 0j}, UnsupportedError, r"state must have dtype complex64 or complex128, got float32"),
        ({"B": zeros(4, 3)}, ShapeError, r"B must have shape \(batch=2, d_state=3\), got \(4, 3\)"),
        ({"B": zeros(2, 3, 3)}, ShapeError, r"B must have ngroups that divide d_inner=4, got 3"),
        ({"C": zeros(2, 3) + 0j}, UnsupportedError, r"C must have dtype float16 or .*, got complex64"),
        ({"D": zeros(3)}, ShapeError, r"D must have shape \(d_inner=4\), got \(3,\)"),
        ({"z": zeros(4)}, ShapeError, r"z must have shape \(batch=2, d_inner=4\), got \(4,\)"),
        ({"dt_bias": torch.zeros(4, device="meta")}, UnsupportedError, r"dt_bias is on meta but x is on cpu"),
    ],
)
def test_errors_name_the_argument(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "state": zeros(2, 4, 3),
        "x": zeros(2, 4),
        "dt": zeros(2, 4),
        "A": zeros(4, 3),
        "B": zeros(2, 3),
        "C": zeros(2, 3),
    }
    with pytest.raises(error, match=f"selective_state_update: {message}"):
        selective_state_update(**{**arguments, **changed})
