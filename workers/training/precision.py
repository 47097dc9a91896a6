"""Where a run computes, with how many threads and in which number format; decided once and recorded with its reason."""

from __future__ import annotations

import contextlib
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from workers.parallel import processes
from workers.specs import RunSpec
from workers.training.context import JSON
from workers.training.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Placement:
    """Device, threads and precision of a run, and why this precision."""

    device: torch.device
    threads: int
    precision: Literal["fp32", "bf16"]
    reason: str

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass: bf16 autocast, or nothing for fp32. Parameters stay fp32 either way."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it; nothing to wait for on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def facts(self) -> dict[str, JSON]:
        """Return what the record keeps about the hardware."""
        facts: dict[str, JSON] = {
            "device": self.device.type,
            "name": _device_name(self.device),
            "threads": self.threads,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "precision": self.precision,
            "precision_reason": self.reason,
            "matmul_precision": "highest",
        }
        if self.device.type == "cuda":
            facts["cuda"] = torch.version.cuda
            facts["memory_mb"] = round(torch.cuda.get_device_properties(self.device).total_memory / 2**20)
        return facts


def place(spec: RunSpec) -> Placement:
    """Decide a run's placement from its spec and this machine.

    `device = "auto"` is CUDA where there is any, unless the run asks for no GPU (`resources.gpus = 0`). `threads = 0`
    is the run's share of CPUs (`resources.cpus` by process, rounded down, at least 1). `precision = "auto"` is bf16 autocast on a
    GPU with native bf16 and fp32 elsewhere: on CPUs bf16 is rarely faster at these sizes and costs reproducibility.
    fp32 matrix products use full fp32 (`highest`, no TF32), so that a GPU and a CPU compute the same curve up to
    rounding.

    Raises:
        DeviceError: CUDA or bf16 is asked for and missing.
    """
    device = _device(spec)
    shared_by = processes(spec.model_dump(mode="json", include={"train", "resources"}))
    threads = spec.train.threads or max(1, int(spec.resources.cpus / shared_by))
    precision, reason = _precision(spec, device)
    return Placement(device, threads, precision, reason)


def _device(spec: RunSpec) -> torch.device:
    wanted = spec.train.device
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise DeviceError("train.device is 'cuda', but torch sees no CUDA device. Use 'auto' or 'cpu', or a GPU node.")
    if wanted == "cpu" or not available or (wanted == "auto" and spec.resources.gpus == 0):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _precision(spec: RunSpec, device: torch.device) -> tuple[Literal["fp32", "bf16"], str]:
    wanted = spec.train.precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        if native:
            return "bf16", "auto: the GPU computes bf16 natively"
        return "fp32", "auto: the GPU has no native bf16" if device.type == "cuda" else "auto: fp32 on a CPU"
    if wanted == "bf16" and device.type == "cuda" and not native:
        raise DeviceError(
            f"train.precision is 'bf16', but {_device_name(device)} has no native bf16. Use 'fp32' or 'auto'."
        )
    return wanted, "as asked"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, '') or platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
