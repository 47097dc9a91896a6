"""Parity of the registry's ops on this machine: what allows a speed, and what `doctor` prints."""

import torch

from kernels.bench.problems import Problem
from kernels.bench.registry import Entry, Shape
from kernels.bench.verify import ParityRow, dtype_name, parity
from kernels.common.errors import KernelError

CHECK_SEQLEN = 4096


def check_entry(entry: Entry, dtype: torch.dtype, device: str) -> list[ParityRow]:
    """Parity on the entry's small problems, which use every option."""
    rows: list[ParityRow] = []
    for make in entry.checks:
        rows += _checked(make(dtype, device), "reference", device)
    return rows


def check_shape(entry: Entry, shape: Shape, dtype: torch.dtype, device: str) -> list[ParityRow]:
    """Parity at the benchmarked shape, against the plain form in float64: the sequential one would take minutes.

    Sequences are cut at CHECK_SEQLEN positions.
    """
    sizes = dict(shape.sizes)
    if "seqlen" in sizes:
        sizes["seqlen"] = min(sizes["seqlen"], CHECK_SEQLEN)
    problem = entry.make(sizes, dtype, device)
    return _checked(problem, problem.plain, device)


def cannot_run() -> tuple[type[Exception], ...]:
    """What a kernel raises that refuses, does not compile, or fails on the device."""
    try:
        from triton.runtime.errors import TritonError
    except ImportError:
        return (KernelError, RuntimeError)
    return (KernelError, RuntimeError, TritonError)


def _checked(problem: Problem, oracle: str, device: str) -> list[ParityRow]:
    implementation = "triton" if device.startswith("cuda") else problem.plain
    try:
        return parity(problem, implementation, oracle=oracle)
    except cannot_run() as error:
        reason = f"{problem.label}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        nothing = float("inf")
        return [ParityRow(problem.op, reason, dtype_name(problem.dtype), "", nothing, nothing, 0.0)]
