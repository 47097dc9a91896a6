"""The official kernels beside ours, where the user has installed them: `mamba_ssm` and `causal_conv1d`.

Their layout is (batch, dim, seqlen); tensors are brought into it before anything is timed.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from kernels.bench.problems import Problem

NAME = "mamba_ssm"


def official(problem: Problem) -> Problem | None:
    """The same problem for the official kernel; None where it is not installed or has no such op."""
    adapt = _ADAPTERS.get(problem.op)
    return None if adapt is None else adapt(problem)


def _load(module: str, name: str) -> Callable[..., Any] | None:
    """The official function, or None if its package is missing or was installed without its compiled part."""
    try:
        found: Callable[..., Any] | None = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found


def _selective_scan(problem: Problem) -> Problem | None:
    scan = _load("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    if scan is None:
        return None
    names = {"x": "u", "dt": "delta", "dt_bias": "delta_bias"}
    tensors = {
        names.get(name, name): _time_last(tensor) if tensor.dim() == 3 else tensor
        for name, tensor in problem.tensors.items()
    }

    def call(implementation: str, **arguments: Any) -> Any:
        del implementation
        return scan(**arguments)

    options = {"delta_softplus": True, "return_last_state": True}
    return replace(problem, tensors=tensors, function=call, options=options)


def _causal_conv1d(problem: Problem) -> Problem | None:
    convolve = _load("causal_conv1d", "causal_conv1d_fn")
    if convolve is None:
        return None

    def call(implementation: str, **arguments: Any) -> Any:
        del implementation
        return convolve(**arguments, activation="silu")

    # its (batch, dim, seqlen) with channels innermost is our tensor, transposed
    tensors = problem.tensors | {"x": problem.tensors["x"].transpose(1, 2)}
    tensors |= {name: tensors[name].to(problem.dtype) for name in ("weight", "bias")}
    return replace(problem, tensors=tensors, function=call, options={}, outputs=("y",))


def _time_last(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).contiguous()


_ADAPTERS = {"selective_scan": _selective_scan, "causal_conv1d": _causal_conv1d}
