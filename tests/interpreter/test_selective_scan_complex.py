"""The Triton scan with complex A under the interpreter: outputs and every gradient equal the float64 reference's."""

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.common import choice
from kernels.common.choice import ScanImplementation
from kernels.selective_scan import selective_scan
from kernels.selective_scan.reference import selective_scan_reference
from kernels.selective_scan.triton_arguments import Arguments
from kernels.selective_scan.triton_complex_bwd_launch import complex_backward
from kernels.selective_scan.triton_complex_launch import ComplexPlan, complex_forward, plan_complex
from kernels.selective_scan.triton_op import selective_scan_forward
from tests.unit.kernels.members import check_members, scan_inputs

pytestmark = pytest.mark.interpreter

FP32_TOLERANCE = 3e-6  # relative, of a norm; fp32 PyTorch reaches 1e-6 here
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")


@dataclass(frozen=True)
class Case:
    """Sizes and options of one scan; options are named where they are present."""

    batch: int = 1
    seqlen: int = 9
    d_inner: int = 5
    d_state: int = 3
    ngroups: int = 0
    options: str = "D z dt_bias initial_state"
    constant: str = ""
    softplus: bool = True
    turning: float = 3.0
    plan: ComplexPlan | None = None

    def build(self) -> Arguments:
        """Draw the arguments."""
        generator = torch.Generator().manual_seed(self.seqlen * 100 + self.d_inner)

        def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype)

        def maybe(name: str, value: Tensor) -> Tensor | None:
            return value if name in self.options.split() else None

        batch, seqlen, d_inner, d_state = self.batch, self.seqlen, self.d_inner, self.d_state
        selective = (batch, seqlen, self.ngroups, d_state) if self.ngroups else (batch, seqlen, d_state)
        B, C = (
            normal(*((d_inner, d_state) if name in self.constant else selective), dtype=torch.complex64)
            for name in "BC"
        )
        dt = normal(d_inner) if "dt" in self.constant.split() else normal(batch, seqlen, d_inner)
        return Arguments(
            x=normal(batch, seqlen, d_inner),
            dt=dt if self.softplus else 0.3 * dt.abs(),
            A=torch.complex(
                -torch.rand(d_inner, d_state, generator=generator), self.turning * normal(d_inner, d_state)
            ),
            B=B,
            C=C,
            D=maybe("D", normal(d_inner)),
            z=maybe("z", normal(batch, seqlen, d_inner)),
            dt_bias=maybe("dt_bias", normal(d_inner)),
            dt_softplus=self.softplus,
            initial_state=maybe("initial_state", normal(batch, d_inner, d_state, dtype=torch.complex64)),
            reset=maybe("reset", torch.rand(batch, seqlen, generator=generator) < 0.1),
        )


def as_named(given: Arguments) -> dict[str, Any]:
    return {field.name: getattr(given, field.name) for field in fields(given)}


def in_double(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return value
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def error(value: Tensor, reference: Tensor) -> float:
    """Relative error of a norm; the absolute one where the reference is zero."""
    difference, size = float((value.to(reference.dtype) - reference).norm()), float(reference.norm())
    return difference / size if size else difference


EVERYTHING = "D z dt_bias initial_state reset"
CASES = {
    "L1": Case(batch=2, seqlen=1),
    "bare": Case(seqlen=3, d_inner=1, d_state=1, options="", softplus=False),
    "L41-reset": Case(seqlen=41, options=EVERYTHING),
    "two-warps-N11": Case(seqlen=3, d_inner=9, d_state=11, plan=ComplexPlan(2, 2, 1, 1)),
    "groups": Case(d_inner=6, d_state=4, ngroups=2, options=EVERYTHING),
    "constant-B": Case(constant="B"),
    "constant-C": Case(constant="C"),
    "constant-B-C-dt": Case(constant="B C dt", options=EVERYTHING),
    "blocks-of-states": Case(d_inner=2, d_state=20),
    "blocks-of-states-constant": Case(d_inner=2, d_state=20, constant="B C dt", options="dt_bias"),
    "parts": Case(seqlen=70, d_inner=3, plan=ComplexPlan(1, 1, 3, 1), options=EVERYTHING),
    "parts-of-nothing-else": Case(seqlen=70, d_inner=3, plan=ComplexPlan(1, 1, 2, 2), options=""),
    "many-turns": Case(turning=300.0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_outputs_and_gradients_equal_the_reference(case: Case) -> None:
    given = case.build()
    named = as_named(given)
    leaves = {
        name: in_double(value).requires_grad_() for name, value in named.items() if name in NAMES and value is not None
    }
    expected, expected_state = selective_scan_reference(**named | leaves)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(expected.shape, generator=generator)
    dfinal = torch.randn(expected_state.shape, generator=generator, dtype=torch.complex64)
    seeds = [in_double(dy), in_double(dfinal)]
    wanted = torch.autograd.grad([expected, expected_state], list(leaves.values()), seeds)

    y, final_state, checkpoints = complex_forward(given, save=True, plan=case.plan)
    assert checkpoints is not None
    found = complex_backward(given, dy, dfinal, checkpoints, plan=case.plan)
    # An angle of a thousand half turns is rounded to 2**-24 of itself by the interpreter, which has no fused multiply-add.
    tolerance = FP32_TOLERANCE * max(1.0, case.turning / 3)
    assert error(y, expected.detach()) < tolerance
    assert error(final_state, expected_state.detach()) < tolerance
    for name, gradient in zip(NAMES, found, strict=True):
        if name in leaves:
            assert gradient is not None
            assert gradient.dtype == named[name].dtype
            index = list(leaves).index(name)
            assert error(gradient, wanted[index]) < tolerance, name
        else:
            assert gradient is None, name


def test_checkpoints_are_the_states_that_enter_the_tiles() -> None:
    given = Case(seqlen=70, d_inner=3).build()
    _, _, checkpoints = complex_forward(given, save=True)
    assert checkpoints is not None
    assert checkpoints.shape == (1, 3, 3, 8, 2)
    first = {
        name: value[:, :64] if name in ("x", "dt", "B", "C", "z") else value for name, value in as_named(given).items()
    }
    _, entering = selective_scan_reference(**{name: in_double(value) for name, value in first.items()})
    assert error(torch.view_as_complex(checkpoints[:, 2, :, :3].contiguous()), entering) < FP32_TOLERANCE
    assert not checkpoints[..., 3:, :].any()


def test_a_reset_stops_what_is_not_a_number() -> None:
    given = Case(seqlen=5, options="initial_state").build()
    assert given.initial_state is not None
    given.initial_state.fill_(float("nan"))
    reset = torch.zeros(1, 5, dtype=torch.bool)
    reset[0, 2] = True
    y, state, _ = complex_forward(replace(given, reset=reset), save=False)
    assert not y[:, :2].isfinite().any()
    assert y[:, 2:].isfinite().all()
    assert torch.view_as_real(state).isfinite().all()


def test_gradients_through_the_public_function_with_real_and_conjugate_arguments() -> None:
    given = Case(d_state=4).build()
    tensors = {name: value for name, value in as_named(given).items() if name in NAMES and value is not None}
    tensors["B"] = tensors["B"].real.to(torch.bfloat16)
    tensors["initial_state"] = tensors["initial_state"].real
    tensors["C"] = tensors["C"].conj()

    def gradients(implementation: ScanImplementation, convert: Any) -> list[Tensor]:
        leaves = {name: convert(value).detach().requires_grad_() for name, value in tensors.items()}
        out = selective_scan(**leaves, dt_softplus=True, implementation=implementation)
        loss = out.y.square().sum() + torch.view_as_real(out.final_state).sin().sum()
        return list(torch.autograd.grad(loss, list(leaves.values())))

    choice.reset_used()
    ours = gradients("triton", lambda value: value)
    assert choice.used() == {"selective_scan": ["triton"]}
    assert choice.layouts()["selective_scan"]["1x5x9x4 complex"]["lanes"] == "complex"
    for name, one, other in zip(tensors, ours, gradients("reference", in_double), strict=True):
        assert one.dtype == tensors[name].dtype
        assert error(one, other) < (2.0**-7 if name == "B" else FP32_TOLERANCE), name


def test_the_operator_is_registered_soundly() -> None:
    given = Case(seqlen=3, d_inner=2, d_state=2, options="D initial_state").build()
    assert given.initial_state is not None
    for tensor in (given.x, given.A, given.B, given.initial_state):
        tensor.requires_grad_()
    arguments = (
        given.x,
        given.dt,
        given.A,
        given.B,
        given.C,
        given.D,
        None,
        None,
        True,
        given.initial_state,
        None,
        True,
    )
    torch.library.opcheck(selective_scan_forward, arguments)


@pytest.mark.parametrize("groups", [0, 2])
def test_members_of_an_ensemble(groups: int) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation="triton")

    check_members(op, scan_inputs(2, 1, 9, 4, 3, groups=groups, dtype=torch.float32, is_complex=True))


def test_the_division_depends_on_shapes_alone_and_fills_the_gpu() -> None:
    assert plan_complex(8, 2048, 2048, 16, 1) == ComplexPlan(2, 8, 1, 64)
    assert plan_complex(1, 2048, 128, 16, 1) == ComplexPlan(2, 8, 16, 4)
    assert plan_complex(1, 2048, 16, 8, 1).warps == 4
    assert plan_complex(1, 100, 16, 8, 1).parts == 1
    assert plan_complex(2, 4096, 64, 256, 4).parts == 1
