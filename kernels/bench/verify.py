"""Parity of an implementation with the float64 reference: the measure that tests, `doctor` and the benchmark share.

An output or gradient passes when its error is at most twice that of the plain PyTorch implementation in the same dtypes plus
a floor. The error is |value - reference| / |reference| in the Euclidean norm; NaN never passes. The floor is a quarter of the
dtype's epsilon (what rounding the result alone costs), and 1e-6 where that is less: fp32 sums in another order differ by that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.bench.problems import Problem, in_double

SUM_FLOOR = 1e-6
FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class ParityRow:
    """How far one output or gradient is from the reference."""

    op: str
    case: str
    dtype: str
    tensor: str
    error: float
    plain_error: float
    bound: float

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.error <= self.bound


def parity(problem: Problem, implementation: str = "triton", *, oracle: str = "reference") -> list[ParityRow]:
    """Compare every output and gradient; `oracle` names the implementation that is run in float64.

    What the implementation allocates is filled with NaN first, so that an element it does not write is found.
    """
    cotangents = draw_cotangents(problem)
    expected = evaluate(problem.to_double(), oracle, cotangents)
    plain = evaluate(problem, problem.plain, cotangents)
    with poisoned_buffers():
        values = evaluate(problem, implementation, cotangents)
    rows = []
    for name, value in values.items():
        plain_error = relative_error(plain[name], expected[name])
        bound = FACTOR * plain_error + floor(value.dtype)
        error = relative_error(value, expected[name])
        rows.append(ParityRow(problem.op, problem.label, dtype_name(problem.dtype), name, error, plain_error, bound))
    return rows


def evaluate(problem: Problem, implementation: str, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every output by name, and the gradient of every differentiable argument as `d<name>`."""
    leaves = {name: problem.tensors[name].detach().requires_grad_() for name in problem.differentiable}
    fresh = Problem(
        problem.op, problem.label, problem.dtype, problem.tensors | leaves, problem.function, problem.outputs, problem.options,
        problem.mutated, problem.plain,
    )  # fmt: skip
    with torch.set_grad_enabled(bool(leaves)):
        outputs = fresh.call(implementation)
    found = {name: value.detach() for name, value in outputs.items()}
    if leaves:
        seeds = [cotangents[name].to(value.dtype) for name, value in outputs.items()]
        gradients = torch.autograd.grad(list(outputs.values()), list(leaves.values()), seeds)
        found |= {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return found


def repeats_bitwise(problem: Problem, implementation: str = "triton", runs: int = 5) -> bool:
    """Whether `runs` evaluations give the same bits in every output and gradient."""
    cotangents = draw_cotangents(problem)
    first = evaluate(problem, implementation, cotangents)
    for _ in range(runs - 1):
        again = evaluate(problem, implementation, cotangents)
        if not all(torch.equal(_bits(first[name]), _bits(again[name])) for name in first):
            return False
    return True


def draw_cotangents(problem: Problem) -> dict[str, Tensor]:
    """A random gradient for each output, the same for every implementation: rounded to the dtype the output has."""
    if not problem.differentiable:
        return {}
    generator = torch.Generator(next(iter(problem.tensors.values())).device).manual_seed(1)
    with torch.no_grad():
        outputs = problem.call(problem.plain)
    return {
        name: torch.randn(
            value.shape, generator=generator, device=value.device, dtype=torch.complex64 if value.is_complex() else None
        ).to(value.dtype)
        for name, value in outputs.items()
    }


def relative_error(value: Tensor, reference: Tensor) -> float:
    """|value - reference| / |reference|; the absolute error where the reference is zero; infinite where shapes differ."""
    if value.shape != reference.shape:
        return float("inf")
    value, reference = in_double(value), in_double(reference)
    difference = torch.linalg.vector_norm(value - reference)
    size = torch.linalg.vector_norm(reference)
    return float(difference / size) if size > 0 else float(difference)


def floor(dtype: torch.dtype) -> float:
    """The error that rounding a result to `dtype` is allowed to make."""
    return max(torch.finfo(dtype).eps / 4, SUM_FLOOR)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` and so on."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def poisoned_buffers() -> Iterator[None]:
    """Fill what torch.empty and its kin return with NaN while the context lasts."""
    patched = ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"))
    originals = [getattr(owner, name) for owner, name in patched]
    for (owner, name), original in zip(patched, originals, strict=True):
        setattr(owner, name, _filled(original))
    try:
        yield
    finally:
        for (owner, name), original in zip(patched, originals, strict=True):
            setattr(owner, name, original)


def _filled(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        buffer = allocate(*args, **kwargs)
        return buffer.fill_(float("nan")) if buffer.is_floating_point() or buffer.is_complex() else buffer

    return poisoned


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)
