"""Errors that end a training run, each with a code that the record keeps and the controller decides by."""

from __future__ import annotations

from typing import ClassVar

import torch

from workers.errors import CheckpointError, SpecError, TaskError


class TrainingError(RuntimeError):
    """A run that cannot go on.

    `code` is the short name stored with the attempt; `retryable` says whether another attempt could end otherwise.
    """

    code: ClassVar[str] = "training"
    retryable: ClassVar[bool] = False


class NonFiniteLossError(TrainingError):
    """The loss or the gradient became infinite or NaN. The run is deterministic, so a retry would end the same way."""

    code: ClassVar[str] = "diverged"

    def __init__(self, *, step: int, lr: float, what: str, value: float, last_finite: float | None) -> None:
        before = "no step before it was finite" if last_finite is None else f"last finite loss {last_finite:.6g}"
        super().__init__(
            f"{what} is {value} at step {step} (lr {lr:.3g}, {before}). "
            "Lower train.lr, lengthen train.warmup_steps, or lower train.clip_grad_norm."
        )
        self.step = step
        self.lr = lr
        self.last_finite = last_finite


class RunOutOfMemoryError(TrainingError):
    """The device or the host had too little memory for the run."""

    code: ClassVar[str] = "oom"


class DeviceError(TrainingError):
    """The run asks for a device or a precision that this machine does not have."""

    code: ClassVar[str] = "device"


class CaptureError(TrainingError):
    """The run asks for captured steps, and they cannot be captured."""

    code: ClassVar[str] = "capture"


def error_code(error: BaseException) -> str:
    """Return the code stored for an error: a training error's own, or the nearest of checkpoint, spec, oom, error."""
    if isinstance(error, TrainingError):
        return error.code
    if isinstance(error, CheckpointError):
        return "checkpoint"
    if isinstance(error, SpecError | TaskError):
        return "spec"
    return "oom" if is_out_of_memory(error) else "error"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a failed allocation: CUDA's own type, Python's, or the CPU allocator's RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
