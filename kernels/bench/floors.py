"""What the machine can do at best, measured in the same run: bytes copied and exponentials per second."""

from typing import NamedTuple

import torch

from kernels.bench.registry import Work
from kernels.bench.timing import time_calls

COPY_BYTES = 2**30
EXP_BLOCK, EXP_PROGRAMS, EXP_STEPS = 2048, 132 * 32, 512


class Floors(NamedTuple):
    """Rates of one device."""

    bytes_per_s: float
    """Read plus written by a large copy."""
    exps_per_s: float


class FloorTimes(NamedTuple):
    """The least time for some work, in milliseconds, by either limit."""

    memory: float
    exp: float


def measure_floors(device: str, *, budget_ms: float = 100) -> Floors:
    """Copy a buffer larger than any cache, and evaluate exponentials that never leave the registers."""
    if device.startswith("cuda"):
        return Floors(_copy_rate(device, COPY_BYTES, budget_ms), _exp_rate_cuda(device, budget_ms))
    return Floors(_copy_rate(device, COPY_BYTES // 8, budget_ms), _exp_rate_cpu(budget_ms))


def floor_times(work: Work, floors: Floors) -> tuple[FloorTimes, FloorTimes]:
    """The floors of forward and backward."""
    forward = FloorTimes(work.forward_bytes / floors.bytes_per_s * 1e3, work.forward_exps / floors.exps_per_s * 1e3)
    backward = FloorTimes(work.backward_bytes / floors.bytes_per_s * 1e3, work.backward_exps / floors.exps_per_s * 1e3)
    return forward, backward


def _copy_rate(device: str, size: int, budget_ms: float) -> float:
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    times = time_calls(lambda: target.copy_(source), device, budget_ms=budget_ms, at_least=3)
    return 2 * size / (times.median * 1e-3)


def _exp_rate_cuda(device: str, budget_ms: float) -> float:
    from kernels.bench.triton_exp import exp_chain

    out = torch.empty(EXP_BLOCK * EXP_PROGRAMS, device=device)

    def call() -> None:
        exp_chain[(EXP_PROGRAMS,)](out, EXP_STEPS, BLOCK=EXP_BLOCK, num_warps=8)

    times = time_calls(call, device, budget_ms=budget_ms, at_least=3)
    return EXP_BLOCK * EXP_PROGRAMS * EXP_STEPS / (times.median * 1e-3)


def _exp_rate_cpu(budget_ms: float) -> float:
    values = torch.rand(2**16)
    out = torch.empty_like(values)
    times = time_calls(lambda: torch.exp(values, out=out), "cpu", budget_ms=budget_ms)
    return values.numel() / (times.median * 1e-3)
