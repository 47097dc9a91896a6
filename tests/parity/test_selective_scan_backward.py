"""The Triton backward scan on a GPU: every gradient against float64, beside plain PyTorch in the same dtype."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.selective_scan.reference import per_channel, selective_scan_reference, step_sizes
from kernels.selective_scan.triton_bwd_launch import Gradients, scan_backward
from kernels.selective_scan.triton_bwd_plan import Plan, plan_backward
from kernels.selective_scan.triton_checkpoints import in_halves
from tests.unit.kernels.scan_cases import halves_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
FLOOR = 5e-6  # relative, of a norm: approximate exp2, log2 and reciprocal are good to 2**-22 each


@dataclass(frozen=True)
class Case:
    """A problem's sizes and options. `constant` names those of B, C and dt that do not depend on time."""

    batch: int = 2
    seqlen: int = 128
    d_inner: int = 256
    d_state: int = 16
    dtype: torch.dtype = torch.float32
    ngroups: int = 0
    constant: tuple[str, ...] = ()
    options: tuple[str, ...] = ("D", "z", "dt_bias")
    states: bool = False
    reset: bool = False
    strided: bool = False
    bias: float = -1.0
    rate: float = 1.0
    plan: Plan | None = field(default=None)

    def __str__(self) -> str:
        text = f"B{self.batch}-T{self.seqlen}-D{self.d_inner}-N{self.d_state}-{str(self.dtype).removeprefix('torch.')}"
        marks = [f"G{self.ngroups}" if self.ngroups else "", *(f"const{name}" for name in self.constant)]
        marks += [name for name in ("states", "reset", "strided") if getattr(self, name)]
        marks += ["bare"] if not self.options else []
        marks += [f"bias{self.bias:g}"] if self.bias != -1 else []
        marks += [f"rate{self.rate:g}"] if self.rate != 1 else []
        marks += ["planned"] if self.plan is not None else []
        return "-".join([text, *(mark for mark in marks if mark)])


@dataclass(frozen=True)
class Problem:
    """Tensors of a case."""

    inputs: Mapping[str, Tensor | None]
    dy: Tensor
    dfinal: Tensor | None
    reset: Tensor | None
    softplus: bool
    plan: Plan | None

    def autograd(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """Gradients by autograd through the reference, its inputs in `dtype` (None: as they are)."""
        leaves = {
            name: None if value is None else value.detach().to(dtype or value.dtype).requires_grad_()
            for name, value in self.inputs.items()
        }
        given = {name: value for name, value in leaves.items() if value is not None}
        y, final = selective_scan_reference(**leaves, dt_softplus=self.softplus, reset=self.reset)  # type: ignore[arg-type]
        outputs, seeds = [y], [self.dy.to(y.dtype)]
        if self.dfinal is not None:
            outputs, seeds = [y, final], [self.dy.to(y.dtype), self.dfinal.to(final.dtype)]
        return dict(zip(given, torch.autograd.grad(outputs, list(given.values()), seeds), strict=True))

    def checkpoints(self) -> Tensor:
        """The states entering every 32nd position, before its reset."""
        x, A, B = (value.double() for name in "xAB" if (value := self.inputs[name]) is not None)
        dt, bias, initial = (self.inputs[name] for name in ("dt", "dt_bias", "initial_state"))
        assert dt is not None
        steps = step_sizes(x, dt.double(), bias, self.softplus)
        inflow = per_channel(B, x.shape)
        h = x.new_zeros(x.shape[0], *A.shape) if initial is None else initial.double()
        kept = []
        for t in range(x.shape[1]):
            if t % 32 == 0:
                kept.append(h.transpose(1, 2))
            if self.reset is not None:
                h = torch.where(self.reset[:, t, None, None], torch.zeros_like(h), h)
            h = torch.exp(steps[:, t, :, None] * A) * h + (steps[:, t] * x[:, t])[..., None] * inflow[:, t]
        found = torch.stack(kept, dim=1).float().contiguous()
        x, dt, A, B, C = (value for name in ("x", "dt", "A", "B", "C") if (value := self.inputs[name]) is not None)
        return halves_of(found) if in_halves(x, dt, A, B, C, self.inputs["z"]) else found

    def triton(self, checkpoints: Tensor) -> Gradients:
        return scan_backward(
            self.dy,
            self.dfinal,
            **self.inputs,  # type: ignore[arg-type]
            dt_softplus=self.softplus,
            reset=self.reset,
            checkpoints=checkpoints,
            plan=self.plan,
        )


def draw(case: Case) -> Problem:
    generator = torch.Generator().manual_seed(17)
    batch, seqlen, d_inner, d_state = case.batch, case.seqlen, case.d_inner, case.d_state

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator).to("cuda", dtype)

    def rows() -> Tensor:
        if case.strided:
            return normal(batch, d_inner, seqlen + 3, dtype=case.dtype)[:, :, 3:].transpose(1, 2)
        return normal(batch, seqlen, d_inner, dtype=case.dtype)

    def coefficients(name: str) -> Tensor:
        if name in case.constant:
            return normal(d_inner, d_state)
        groups = (case.ngroups,) if case.ngroups else ()
        return normal(batch, seqlen, *groups, d_state, dtype=case.dtype)

    bare = not case.options
    dt = normal(d_inner) if "dt" in case.constant else rows()
    inputs = {
        "x": rows(),
        "dt": 0.2 * dt.abs() if bare else 0.5 * dt,
        "A": -case.rate * (0.2 + 4 * torch.rand(d_inner, d_state, generator=generator)).cuda(),
        "B": coefficients("B"),
        "C": coefficients("C"),
        "D": normal(d_inner) if "D" in case.options else None,
        "z": rows() if "z" in case.options else None,
        "dt_bias": 0.3 * normal(d_inner) + case.bias if "dt_bias" in case.options else None,
        "initial_state": normal(batch, d_inner, d_state) if case.states else None,
    }
    return Problem(
        inputs,
        dy=rows(),
        dfinal=normal(batch, d_inner, d_state) if case.states else None,
        reset=(torch.rand(batch, seqlen, generator=generator) < 0.1).cuda() if case.reset else None,
        softplus=not bare,
        plan=case.plan,
    )


BF16, FP16 = torch.bfloat16, torch.float16
SHORT_SUMS = Plan(8, 2, 2, 4, 32)
"""128 channels a program: from checkpoints in halves, sums of dB and dC have 16 bits each."""
CASES = [
    Case(),
    Case(dtype=BF16),
    Case(dtype=FP16),
    Case(batch=1, seqlen=1, d_inner=1, d_state=1),
    Case(batch=3, seqlen=3, d_inner=17, d_state=3, states=True, reset=True),
    Case(seqlen=129, dtype=BF16, states=True, reset=True),
    Case(seqlen=100, d_inner=40, d_state=20, states=True, reset=True),
    Case(seqlen=96, d_inner=64, d_state=64, dtype=BF16, ngroups=4),
    Case(batch=1, seqlen=70, d_inner=34, d_state=256, ngroups=2, states=True),
    Case(seqlen=96, d_inner=64, d_state=20, constant=("B",)),
    Case(seqlen=96, d_inner=64, d_state=20, constant=("C",), dtype=BF16),
    Case(seqlen=96, d_inner=64, constant=("B", "C", "dt"), states=True, reset=True),
    Case(seqlen=96, d_inner=65, options=()),
    Case(dtype=BF16, strided=True),
    Case(dtype=BF16, bias=-9.2),
    Case(bias=-9.2),
    Case(rate=30),
    Case(dtype=BF16, plan=Plan(8, 1, 1, 4, 32)),
    Case(dtype=BF16, d_state=8, plan=Plan(8, 2, 2, 2, 32)),
    Case(plan=Plan(1, 2, 4, 1, 8), reset=True, states=True),
    Case(dtype=BF16, d_inner=128, plan=Plan(4, 2, 2, 2, 16), states=True),
    Case(batch=8, seqlen=256, d_inner=1024, dtype=BF16, ngroups=8),
    Case(seqlen=200, d_state=64, dtype=BF16, ngroups=2, plan=SHORT_SUMS, states=True),
    Case(d_state=128, dtype=FP16, plan=SHORT_SUMS, reset=True),
    Case(batch=1, seqlen=2047, d_inner=48, dtype=BF16),
    Case(batch=1, seqlen=2049, d_inner=48, states=True),
]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill what the launcher allocates with NaN, so that an element read before it is written shows."""
    new_empty, empty_like = Tensor.new_empty, torch.empty_like

    def poisoned(self: Tensor, *size: Any, **keywords: Any) -> Tensor:
        made: Tensor = new_empty(self, *size, **keywords)
        return made.fill_(float("nan") if made.is_floating_point() else -1)

    def poisoned_like(values: Tensor, **keywords: Any) -> Tensor:
        made: Tensor = empty_like(values, **keywords)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", poisoned_like)
        patch.setattr(Tensor, "new_empty", poisoned)
        yield


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_match_float64(case: Case) -> None:
    problem = draw(case)
    exact, same = problem.autograd(torch.float64), problem.autograd(None)
    checkpoints = problem.checkpoints()
    for name, gradient in zip(NAMES, problem.triton(checkpoints), strict=True):
        value = problem.inputs[name]
        if value is None or gradient is None:
            assert value is None, name
            assert gradient is None, name
            continue
        assert gradient.dtype == value.dtype, name
        assert gradient.shape == value.shape, name
        norm = exact[name].norm().clamp_min(1e-30)  # the gradient of A is zero after a single step
        error, plain = ((g.double() - exact[name]).norm() / norm for g in (gradient, same[name]))
        assert error <= 2 * plain + FLOOR, f"{name}: {error:.2e}, PyTorch {plain:.2e}"


@pytest.mark.parametrize(
    "case", [Case(seqlen=512, dtype=BF16), Case(seqlen=300, d_inner=100, states=True, reset=True)], ids=str
)
def test_five_runs_are_bit_equal(case: Case) -> None:
    problem = draw(case)
    checkpoints = problem.checkpoints()
    first = problem.triton(checkpoints)
    for _ in range(4):
        for one, other in zip(first, problem.triton(checkpoints), strict=True):
            assert (one is None) == (other is None)
            assert one is None or other is None or torch.equal(one, other)


def test_gradients_do_not_depend_on_the_other_sequences() -> None:
    """The division of the work may depend on the batch; at one division, a sequence's own gradients do not."""
    problem = draw(Case(dtype=BF16))
    plan = plan_backward(2, 128, 256, 16, 1)
    checkpoints = problem.checkpoints()
    both = replace(problem, plan=plan).triton(checkpoints)
    alone = replace(
        problem,
        inputs={
            name: value[:1] if value is not None and name in ("x", "dt", "B", "C", "z") else value
            for name, value in problem.inputs.items()
        },
        dy=problem.dy[:1],
        plan=plan,
    ).triton(checkpoints[:1])
    for name in ("x", "dt", "B", "C", "z"):
        assert torch.equal(getattr(both, name)[:1], getattr(alone, name)), name
