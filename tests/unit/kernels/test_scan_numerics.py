"""The scan in the dtypes of training, and where numbers get very large or very small.

Errors are those against the reference in float64 on the same (rounded) numbers, relative to the largest value. fp32
rounds at 6e-8; a bound of 2e-6 leaves room for the sums over positions, states and channels of these sizes. What is
rounded to bf16 or fp16 at the end is off by half a unit in the last place: 2^-8 or 2^-11 of itself.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.common.choice import ScanImplementation
from kernels.common.numerics import softplus
from tests.unit.kernels.scan_cases import BLOCKS, Arguments, Blocks, ScanCase, gradients, run

FP32 = 2e-6
FAST_DECAY = 30 * 2**-23
"""A decay exp(v) is off by up to |v| 2^-23 of itself, as v is rounded twice; decays under exp(-30) vanish beside others."""

HALF_UNIT = {torch.bfloat16: 2**-8, torch.float16: 2**-11}

both = pytest.mark.parametrize("implementation", ["reference", "chunked"])


def widened(arguments: Arguments) -> Arguments:
    return {
        name: value.to(torch.complex128 if value.is_complex() else torch.float64)
        if isinstance(value, Tensor) and value.dtype != torch.bool
        else value
        for name, value in arguments.items()
    }


def relative_errors(got: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: ((got[name].to(value.dtype) - value).abs().max() / value.abs().max()).item()
        for name, value in exact.items()
    }


@both
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_fp32_is_as_near_to_fp64_as_its_digits_allow(implementation: ScanImplementation, is_complex: bool) -> None:
    case = ScanCase(batch=2, seqlen=64, d_inner=16, d_state=8, is_complex=is_complex)
    arguments = case.arguments(dtype=torch.float32)
    got, exact = gradients(implementation, arguments), gradients("reference", widened(arguments))
    assert all(value.dtype in (torch.float32, torch.complex64) for value in got.values())
    errors = relative_errors(got, exact)
    assert max(errors.values()) < FP32, errors


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e2, 1e5], ids=str)
def test_fast_and_slow_decays_are_as_exact(scale: float, blocks: Blocks) -> None:
    """A quotient of products of decays, or the exponential of a difference of sums, would be 0/0, inf or noise here."""
    arguments = ScanCase(batch=1, seqlen=48, d_inner=4, d_state=4).arguments(dtype=torch.float32)
    arguments["A"] = arguments["A"] * scale
    with blocks.set():
        got = gradients("chunked", arguments)
    exact = gradients("reference", widened(arguments))
    for name, value in got.items():
        assert value.isfinite().all(), name
    exact = {name: value for name, value in exact.items() if value.abs().max() > 1e-30}
    errors = relative_errors(got, exact)
    assert max(errors.values()) < FAST_DECAY, errors


@both
def test_states_that_decay_at_once_leave_nothing_and_no_nan(implementation: ScanImplementation) -> None:
    arguments = ScanCase(batch=1, seqlen=40, d_inner=2, d_state=2, softplus=False).arguments(dtype=torch.float32)
    arguments["A"] = torch.full_like(arguments["A"], -3e38)
    got = gradients(implementation, arguments)
    assert all(value.isfinite().all() for value in got.values())
    assert not got["initial_state"].any()


def test_a_million_positions_neither_drift_nor_overflow() -> None:
    """With x = B = C = 1 and dt A = -1e-3 the state tends to dt / (1 - exp(-1e-3)) = 1.0005."""
    seqlen = 2**17
    one = torch.ones(1, seqlen, 1)
    out = run(
        {"x": one, "dt": torch.full((1,), 1e-3), "A": torch.tensor([[-1.0]]), "B": one, "C": one}, dt_softplus=False
    )
    limit = 1e-3 / -torch.expm1(torch.tensor(-1e-3, dtype=torch.float64))
    torch.testing.assert_close(out.y[0, -1].double(), limit[None], rtol=1e-4, atol=0)
    assert (out.y[0, 20000:, 0].double() - limit).abs().max() < 1e-4


def test_small_steps_keep_their_digits() -> None:
    x = torch.linspace(-20, 20, 4001)
    exact = torch.log1p(torch.exp(x.double()))
    assert ((softplus(x).double() - exact) / exact).abs().max() < 3e-7
    wide = torch.linspace(-50, 60, 4001, dtype=torch.float64)
    exact = torch.where(wide > 0, wide + torch.log1p(torch.exp(-wide.abs())), torch.log1p(torch.exp(-wide.abs())))
    assert ((softplus(wide) - exact) / exact).abs().max() < 5e-16


@both
def test_steps_of_1e_4_are_exact_in_fp32(implementation: ScanImplementation) -> None:
    """dt_bias = -9.21 gives dt = 1e-4; log(1 + exp(dt)) as written would be off by 2e-4 of it."""
    bias = torch.tensor([-9.210290371559516])
    out = run(
        {
            "x": torch.ones(1, 1, 1),
            "dt": torch.zeros(1, 1, 1),
            "A": torch.tensor([[-1.0]]),
            "B": torch.ones(1, 1, 1),
            "C": torch.ones(1, 1, 1),
        },
        implementation,
        dt_bias=bias,
        dt_softplus=True,
    )
    exact = torch.log1p(torch.exp(bias.double()))
    torch.testing.assert_close(out.y.double().flatten(), exact, rtol=3e-7, atol=0)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_rounds_once(implementation: ScanImplementation, dtype: torch.dtype) -> None:
    """Everything is fp32 but what comes in and goes out, so each error is that of one rounding."""
    arguments = ScanCase(seqlen=32, d_inner=8, d_state=4).arguments(dtype=torch.float32)
    halves = {name: arguments[name].to(dtype) for name in ("x", "dt", "B", "C", "z")}
    arguments |= halves
    got, exact = gradients(implementation, arguments), gradients("reference", widened(arguments))
    assert {name: got[name].dtype for name in halves} == dict.fromkeys(halves, dtype)
    assert got["y"].dtype == dtype
    assert {got[name].dtype for name in ("final_state", "A", "D", "dt_bias", "initial_state")} == {torch.float32}
    errors = relative_errors(got, exact)
    assert all(error < (HALF_UNIT[dtype] if got[name].dtype == dtype else FP32) for name, error in errors.items()), (
        errors
    )


@both
@pytest.mark.parametrize(
    ("half", "wide"),
    [({"x"}, {"dt", "B", "C", "z"}), ({"dt", "z"}, {"x", "B", "C"}), ({"B"}, {"x", "dt", "C", "z"})],
    ids=["x", "dt-z", "B"],
)
def test_dtypes_may_be_mixed(implementation: ScanImplementation, half: set[str], wide: set[str]) -> None:
    arguments = ScanCase(resets=True).arguments(dtype=torch.float32)
    mixed = {**arguments, **{name: arguments[name].bfloat16() for name in half}}
    same = {**arguments, **{name: arguments[name].bfloat16().float() for name in half}}
    got, expected = run(mixed, implementation), run(same, implementation)
    assert got.y.dtype == mixed["x"].dtype
    assert torch.equal(got.y, expected.y.to(got.y.dtype))
    assert torch.equal(got.final_state, expected.final_state)


def test_fp64_parameters_do_not_make_an_fp32_scan_fp64() -> None:
    arguments = ScanCase().arguments(dtype=torch.float32)
    arguments["A"] = arguments["A"].double()
    out = run(arguments)
    assert (out.y.dtype, out.final_state.dtype) == (torch.float32, torch.float32)


@both
def test_autocast_changes_nothing(implementation: ScanImplementation) -> None:
    """Neither around the forward nor, as some callers have it, around the backward too."""
    arguments = ScanCase(seqlen=32, d_inner=8, d_state=4).arguments(dtype=torch.float32)
    expected = gradients(implementation, arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(implementation, arguments)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_real_b_and_c_serve_a_complex_a() -> None:
    arguments = ScanCase(is_complex=True).arguments()
    real = {name: arguments[name].real for name in ("B", "C", "initial_state")}
    same = {name: torch.complex(value, torch.zeros_like(value)) for name, value in real.items()}
    got, expected = run({**arguments, **real}), run({**arguments, **same})
    assert torch.equal(got.y, expected.y)
    assert torch.equal(got.final_state, expected.final_state)
