"""Choosing which implementation of an op runs, and remembering which did.

`resolve` takes and returns plain strings only. It is marked constant for `torch.compile`, which therefore calls it once while
tracing (so compiled code is recorded too) instead of breaking the graph on the log call and the look-up of modules.
"""

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Literal, cast

from kernels.common.compilation import constant_under_compile
from kernels.common.errors import UnsupportedError

logger = logging.getLogger(__name__)

ScanImplementation = Literal["auto", "reference", "chunked", "triton"]
Implementation = Literal["auto", "reference", "torch", "triton"]
Resolved = Literal["reference", "chunked", "torch", "triton"]

Layout = dict[str, int | bool | str | None]
"""How a kernel divides its work: block sizes, warps and the like."""

_used: dict[str, set[str]] = {}
_layouts: dict[str, dict[str, Layout]] = {}


def used() -> dict[str, list[str]]:
    """Which implementations of each op have run in this process: {op: sorted names}. For a run's record."""
    return {op: sorted(names) for op, names in sorted(_used.items())}


def layouts() -> dict[str, dict[str, Layout]]:
    """Which layout each op's Triton kernel ran with, by shape: {op: {shape: layout}}. For a run's record."""
    return {op: dict(by_shape) for op, by_shape in sorted(_layouts.items())}


def record_layout(op: str, shape: str, describe: Callable[[], Layout]) -> None:
    """Remember the layout that serves a shape; `describe` is asked the first time alone."""
    by_shape = _layouts.setdefault(op, {})
    if shape not in by_shape:
        by_shape[shape] = describe()


def reset_used() -> None:
    """Forget what ran. What compiled code already traced is not recorded again until it is traced again."""
    _used.clear()
    _layouts.clear()


def resolve(op: str, requested: str, plain: str, device_type: str, triton_refusal: str) -> Resolved:
    """Settle which implementation of `op` runs, record it, and log it the first time.

    Args:
        op: the op's name, also the folder it lives in.
        requested: what the caller asked for: "auto", "reference", `plain` or "triton".
        plain: the op's fast plain PyTorch implementation, "chunked" or "torch".
        device_type: where the tensors are, as `Tensor.device.type`.
        triton_refusal: why the Triton kernel cannot serve these arguments; empty when it can.

    Raises:
        UnsupportedError: unknown name, or a request that cannot be met here.
    """
    chosen = _resolve(op, requested, plain, device_type, triton_refusal)
    return cast(Resolved, chosen)


@constant_under_compile
def wants_triton(op: str, requested: str, device_type: str) -> bool:
    """Tell whether the op's Triton module is to be imported and asked: it exists, may run here and is not ruled out."""
    return requested in ("auto", "triton") and not _triton_missing(op) and not _triton_device(device_type)


@constant_under_compile
def _resolve(op: str, requested: str, plain: str, device_type: str, triton_refusal: str) -> str:
    names = ("auto", "reference", plain, "triton")
    if requested not in names:
        raise UnsupportedError(f"{op}: implementation must be one of {', '.join(names)}, got {requested!r}")
    refusal = triton_refusal or _triton_missing(op) or _triton_device(device_type)
    if requested == "triton" and refusal:
        raise UnsupportedError(
            f"{op}: implementation 'triton' cannot run: {refusal}; use '{plain}', 'reference' or 'auto'"
        )
    chosen = requested
    if requested == "auto":
        chosen = "triton" if device_type == "cuda" and not refusal else plain
    _record(op, chosen, refusal if requested == "auto" and device_type == "cuda" else "")
    return chosen


def _record(op: str, chosen: str, refusal: str) -> None:
    names = _used.setdefault(op, set())
    if chosen in names:
        return
    names.add(chosen)
    if refusal:
        logger.warning("%s runs its '%s' implementation on CUDA: %s", op, chosen, refusal)
    else:
        logger.info("%s runs its '%s' implementation", op, chosen)


@cache
def _triton_missing(op: str) -> str:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if importlib.util.find_spec(f"kernels.{op}.triton_op") is None:
        return f"{op} has no Triton kernel"
    return ""


def _triton_device(device_type: str) -> str:
    if device_type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return f"the tensors are on {device_type}, and Triton needs CUDA (or TRITON_INTERPRET=1, to debug)"
