"""The official kernels beside ours, where the user has installed them: `mamba_ssm` and `causal_conv1d`.

Their layout is (batch, dim, seqlen); tensors are brought into it before anything is timed, and outputs come back as views in
ours, which launches nothing. A kernel that does not compute what ours does gets no speed.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernels.bench.problems import Problem

FAR_APART = 0.02
"""Relative difference of two results in bf16 that round in different places: some 0.004. A wrong layout gives more than 1."""


def official(problem: Problem) -> Problem | None:
    """The same problem for the official kernel; None where it is not installed or has no such op."""
    adapt = _ADAPTERS.get(problem.op)
    return None if adapt is None else adapt(problem)


def difference(problem: Problem, theirs: Problem, implementation: str) -> float:
    """How far apart the first outputs are, relative to the size of ours; NaN if either holds one."""
    own, other = (next(iter(_as_in_training(one).call(implementation).values())) for one in (problem, theirs))
    with torch.no_grad():
        return float((other.float() - own.float()).norm() / own.float().norm())


def _as_in_training(problem: Problem) -> Problem:
    """The problem with gradients wanted where it has any: what is compared is then what is timed."""
    leaves = {name: problem.tensors[name].detach().requires_grad_() for name in problem.differentiable}
    return replace(problem, tensors=problem.tensors | leaves)


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
        y, last_state = scan(**arguments)
        return y.transpose(1, 2), last_state

    options = {"delta_softplus": True, "return_last_state": True}
    return replace(problem, tensors=tensors, function=call, options=options)


def _causal_conv1d(problem: Problem) -> Problem | None:
    convolve = _load("causal_conv1d", "causal_conv1d_fn")
    if convolve is None:
        return None

    def call(implementation: str, **arguments: Any) -> Any:
        del implementation
        return convolve(**arguments, activation="silu").transpose(1, 2)

    # its (batch, dim, seqlen) with channels innermost is our tensor, transposed
    tensors = problem.tensors | {"x": problem.tensors["x"].transpose(1, 2)}
    tensors |= {name: tensors[name].to(problem.dtype) for name in ("weight", "bias")}
    return replace(problem, tensors=tensors, function=call, options={}, outputs=("y",))


def _rms_norm(problem: Problem) -> Problem | None:
    norm = _load("mamba_ssm.ops.triton.layer_norm", "rms_norm_fn")
    if norm is None:
        return None

    def call(implementation: str, **arguments: Any) -> Any:
        del implementation
        return norm(**arguments, bias=None, eps=1e-5, prenorm=True, residual_in_fp32=True)

    return replace(problem, function=call, options={})


def _selective_state_update(problem: Problem) -> Problem | None:
    update = _load("mamba_ssm.ops.triton.selective_state_update", "selective_state_update")
    if update is None:
        return None

    def call(implementation: str, **arguments: Any) -> Any:
        del implementation
        return update(**arguments)

    return replace(problem, function=call)


def _causal_conv1d_update(problem: Problem) -> Problem | None:
    update = _load("causal_conv1d", "causal_conv1d_update")
    if update is None:
        return None

    def call(implementation: str, **arguments: Any) -> Any:
        del implementation
        return update(**arguments, activation="silu")

    tensors = {name: problem.tensors[name].to(problem.dtype) for name in ("x", "weight", "bias")}
    tensors["conv_state"] = _time_last(problem.tensors["state"])
    return replace(problem, tensors=tensors, function=call, options={}, mutated=("conv_state",))


def _time_last(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).contiguous()


_ADAPTERS = {
    "selective_scan": _selective_scan,
    "causal_conv1d": _causal_conv1d,
    "rms_norm": _rms_norm,
    "selective_state_update": _selective_state_update,
    "causal_conv1d_update": _causal_conv1d_update,
}
