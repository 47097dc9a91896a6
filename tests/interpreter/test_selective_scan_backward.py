"""The Triton backward scan under the interpreter: every gradient equals the float64 reference's, at sizes that divide nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.selective_scan.reference import per_channel, selective_scan_reference, step_sizes
from kernels.selective_scan.triton_bwd_launch import Gradients, scan_backward
from kernels.selective_scan.triton_bwd_plan import Plan, plan_backward

pytestmark = pytest.mark.interpreter

FP32_TOLERANCE = 2e-6  # relative, of a norm; fp32 PyTorch reaches 1e-6 here


@dataclass(frozen=True)
class Problem:
    """Arguments of one backward."""

    inputs: Mapping[str, Tensor | None]
    dy: Tensor
    dfinal: Tensor | None
    dt_softplus: bool
    reset: Tensor | None

    def reference(self) -> dict[str, Tensor]:
        """Every input's gradient in float64."""
        leaves = {
            name: None if value is None else value.double().requires_grad_() for name, value in self.inputs.items()
        }
        given = {name: value for name, value in leaves.items() if value is not None}
        y, final = selective_scan_reference(**leaves, dt_softplus=self.dt_softplus, reset=self.reset)  # type: ignore[arg-type]
        loss = (y * self.dy.double()).sum()
        if self.dfinal is not None:
            loss = loss + (final * self.dfinal.double()).sum()
        return dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))

    def checkpoints(self) -> Tensor:
        """The states that the forward keeps: those entering every 32nd position, before its reset."""
        x, A, B = (value.double() for name in "xAB" if (value := self.inputs[name]) is not None)
        dt, bias, initial = (self.inputs[name] for name in ("dt", "dt_bias", "initial_state"))
        assert dt is not None
        steps = step_sizes(x, dt, bias, self.dt_softplus)
        B = per_channel(B, x.shape)
        h = torch.zeros(x.shape[0], *A.shape, dtype=torch.float64) if initial is None else initial.double()
        kept = []
        for t in range(x.shape[1]):
            if t % 32 == 0:
                kept.append(h.transpose(1, 2))
            if self.reset is not None:
                h = torch.where(self.reset[:, t, None, None], torch.zeros_like(h), h)
            h = torch.exp(steps[:, t, :, None] * A) * h + (steps[:, t] * x[:, t])[..., None] * B[:, t]
        return torch.stack(kept, dim=1).float().contiguous()

    def gradients(self, plan: Plan | None = None) -> Gradients:
        """What the Triton kernels compute."""
        named: dict[str, Any] = {
            name: value for name, value in self.inputs.items() if name in ("D", "z", "dt_bias", "initial_state")
        }
        x, dt, A, B, C = (self.inputs[name] for name in ("x", "dt", "A", "B", "C"))
        return scan_backward(
            self.dy,
            self.dfinal,
            x=x,  # type: ignore[arg-type]
            dt=dt,  # type: ignore[arg-type]
            A=A,  # type: ignore[arg-type]
            B=B,  # type: ignore[arg-type]
            C=C,  # type: ignore[arg-type]
            dt_softplus=self.dt_softplus,
            reset=self.reset,
            checkpoints=self.checkpoints(),
            plan=plan,
            **named,
        )


def make(
    seqlen: int,
    d_inner: int,
    d_state: int,
    *,
    batch: int = 1,
    options: bool = True,
    constant: str = "",
    ngroups: int = 0,
) -> Problem:
    """Draw a problem; `constant` names those of "B", "C", "dt" that do not depend on time."""
    generator = torch.Generator().manual_seed(seqlen * 100 + d_inner)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    selective = (batch, seqlen, d_state) if ngroups == 0 else (batch, seqlen, ngroups, d_state)
    inputs = {
        "x": draw(batch, seqlen, d_inner),
        "dt": 0.5 * (draw(d_inner) if "dt" in constant else draw(batch, seqlen, d_inner)),
        "A": -(0.2 + 4 * torch.rand(d_inner, d_state, generator=generator)),
        "B": draw(d_inner, d_state) if "B" in constant else draw(*selective),
        "C": draw(d_inner, d_state) if "C" in constant else draw(*selective),
        "D": draw(d_inner) if options else None,
        "z": draw(batch, seqlen, d_inner) if options else None,
        "dt_bias": 0.3 * draw(d_inner) - 1 if options else None,
        "initial_state": draw(batch, d_inner, d_state) if options else None,
    }
    if not options:  # without softplus, dt is the step itself, and a step is positive
        inputs["dt"] = 0.2 * draw(batch, seqlen, d_inner).abs()
    reset = torch.rand(batch, seqlen, generator=generator) < 0.1 if options else None
    dfinal = draw(batch, d_inner, d_state) if options else None
    return Problem(inputs, draw(batch, seqlen, d_inner), dfinal, dt_softplus=options, reset=reset)


def assert_equal(problem: Problem, gradients: Gradients, tolerance: float = FP32_TOLERANCE) -> None:
    reference = problem.reference()
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
    for name, gradient in zip(names, gradients, strict=True):
        value = problem.inputs[name]
        if value is None or gradient is None:
            assert value is None, name
            assert gradient is None, name
            continue
        assert gradient.dtype == value.dtype, name
        assert gradient.shape == value.shape, name
        error = (gradient.double() - reference[name]).norm() / reference[name].norm().clamp_min(1e-30)
        assert error < tolerance, f"{name}: {error:.2e}"


@pytest.mark.parametrize(
    ("seqlen", "d_inner", "d_state"),
    [(1, 1, 1), (3, 5, 3), (33, 17, 3), (32, 16, 2)],
    ids=["L1-D1-N1", "L3-D5-N3", "L33-D17-N3", "L32-D16-N2"],
)
@pytest.mark.parametrize("options", [True, False], ids=["all", "none"])
def test_gradients_equal_the_reference(seqlen: int, d_inner: int, d_state: int, options: bool) -> None:
    problem = make(seqlen, d_inner, d_state, options=options)
    assert_equal(problem, problem.gradients())


def test_states_beyond_one_block() -> None:
    problem = make(3, 5, 20)
    assert_equal(problem, problem.gradients())


@pytest.mark.parametrize("options", [True, False], ids=["all", "none"])
def test_chunks_join(options: bool) -> None:
    problem = make(65, 5, 3, options=options)
    plan = Plan(warps=1, channels=2, chunks=3, chunk_tiles=1, piece_steps=16)
    assert_equal(problem, problem.gradients(plan))
    # As many chunks as fill the last one partly.
    assert_equal(problem, problem.gradients(replace(plan, chunks=2, chunk_tiles=2, piece_steps=8)))


def test_warps_add_their_sums() -> None:
    problem = make(33, 40, 3, batch=2)
    assert_equal(problem, problem.gradients(Plan(2, 2, 1, 2, 32)))


def test_one_channel_per_thread() -> None:
    problem = make(33, 9, 3)
    assert_equal(problem, problem.gradients(Plan(1, 1, 1, 2, 32)))


@pytest.mark.parametrize("constant", ["B", "C", "dt", "B C dt"])
def test_constants(constant: str) -> None:
    problem = make(33, 5, 3, constant=constant)
    assert_equal(problem, problem.gradients(Plan(1, 2, 2, 1, 16)))


@pytest.mark.parametrize("d_inner", [8, 6])
def test_groups(d_inner: int) -> None:
    problem = make(3, d_inner, 3, ngroups=2)
    assert_equal(problem, problem.gradients())


def test_groups_of_whole_programs() -> None:
    """Members of an ensemble as groups: no program has channels of two, none has channels to spare, and each group is as if alone."""
    problem = make(33, 32, 2, ngroups=2)
    plan = plan_backward(1, 33, 32, 2, 2)
    assert (32 // 2) % (16 * plan.warps) == 0
    together = problem.gradients(plan)
    assert_equal(problem, together)
    channels = slice(16, 32)
    own = {name: value[:, :, 1] for name, value in problem.inputs.items() if value is not None and name in "BC"}
    for name, value in problem.inputs.items():
        if value is not None and name not in own:
            first = value[channels] if value.shape[0] == 32 else value[:, channels] if name == "initial_state" else None
            own[name] = value[:, :, channels].contiguous() if first is None else first
    assert problem.dfinal is not None
    dy, dfinal = problem.dy[:, :, channels].contiguous(), problem.dfinal[:, channels]
    alone = replace(problem, inputs=own, dy=dy, dfinal=dfinal).gradients(plan)
    for name in ("x", "dt", "z"):
        assert torch.equal(getattr(together, name)[:, :, channels], getattr(alone, name)), name
    for name in ("B", "C"):
        assert torch.equal(getattr(together, name)[:, :, 1], getattr(alone, name)), name
    assert torch.equal(together.A[channels], alone.A)


def test_groups_of_both_may_differ() -> None:
    problem = make(3, 8, 3, ngroups=4)
    C = torch.randn(1, 3, 3)
    problem = replace(problem, inputs={**problem.inputs, "C": C})
    assert_equal(problem, problem.gradients())


def test_any_strides() -> None:
    problem = make(33, 6, 3)

    def turn(value: Tensor) -> Tensor:
        return value.transpose(1, 2).contiguous().transpose(1, 2)

    inputs = dict(problem.inputs)
    for name in ("x", "dt", "z", "B"):
        value = inputs[name]
        assert value is not None
        inputs[name] = turn(value)
    turned = replace(problem, inputs=inputs, dy=turn(problem.dy))
    assert_equal(turned, turned.gradients())


def test_small_dt() -> None:
    problem = make(33, 4, 3)
    inputs = {**problem.inputs, "dt_bias": torch.full((4,), -9.2)}  # softplus of it is 1e-4
    problem = replace(problem, inputs=inputs)
    assert_equal(problem, problem.gradients())


def test_strong_decay() -> None:
    problem = make(33, 4, 3)
    inputs = {**problem.inputs, "A": torch.full((4, 3), -100.0)}
    problem = replace(problem, inputs=inputs)
    # An exponent near 70 is rounded to 70 * 2**-24 in fp32, and so is the decay.
    assert_equal(problem, problem.gradients(Plan(1, 2, 2, 1, 32)), tolerance=1e-5)


def test_growing_states() -> None:
    problem = make(33, 4, 3)
    inputs = {**problem.inputs, "A": torch.full((4, 3), 0.2)}
    problem = replace(problem, inputs=inputs)
    assert_equal(problem, problem.gradients(Plan(1, 2, 2, 1, 16)))


def test_memory_that_nothing_wrote_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(33, 5, 3)
    plan = Plan(1, 2, 2, 1, 16)
    expected = problem.gradients(plan)
    new_empty = Tensor.new_empty
    empty_like = torch.empty_like

    def poisoned(self: Tensor, *size: Any, **keywords: Any) -> Tensor:
        made: Tensor = new_empty(self, *size, **keywords)
        return made.fill_(float("nan"))

    def poisoned_like(values: Tensor, **keywords: Any) -> Tensor:
        made: Tensor = empty_like(values, **keywords)
        return made.fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    monkeypatch.setattr(torch, "empty_like", poisoned_like)
    for first, second in zip(expected, problem.gradients(plan), strict=True):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)
