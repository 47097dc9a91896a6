"""What tests of ops under `torch.vmap` share: the members' inputs, and the comparison with each member alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Op = Callable[..., tuple[Tensor, ...]]
Inputs = dict[str, Tensor]

# Relative to the largest number of a tensor: some hundred roundings, whose order differs between an ensemble and a member
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def check_members(op: Op, inputs: Inputs, shared: Inputs | None = None) -> None:
    """Assert that outputs and gradients agree to rounding, member by member; what is shared gets the gradients' sum."""
    shared = shared or {}
    leaves, common = _leaves(inputs), _leaves(shared)
    names = list(leaves)
    together = torch.vmap(lambda *values: op(**dict(zip(names, values, strict=True)), **common))(*leaves.values())
    weights = [torch.randn_like(one) for one in together]
    _backward(together, weights)
    sums = {name: torch.zeros_like(values, dtype=torch.float64) for name, values in shared.items()}
    for member in range(len(next(iter(leaves.values())))):
        own, also = _leaves({name: values[member] for name, values in inputs.items()}), _leaves(shared)
        alone = op(**own, **also)
        _backward(alone, [weight[member] for weight in weights])
        for both, one in zip(together, alone, strict=True):
            _close(both[member], one)
        for name, values in leaves.items():
            assert values.grad is not None
            _close(values.grad[member], own[name].grad)
        for name in sums:
            gradient = also[name].grad
            assert gradient is not None
            sums[name] += gradient
    for name, expected in sums.items():
        _close(common[name].grad, expected.to(common[name].dtype))


def scan_inputs(
    members: int,
    batch: int,
    seqlen: int,
    d_inner: int,
    d_state: int,
    *,
    groups: int = 0,
    is_complex: bool = False,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Inputs:
    """Return selective inputs; with `groups`, B and C have so many. A, D and dt_bias are never below fp32."""
    torch.manual_seed(seqlen)
    positions = (members, batch, seqlen)
    states = (groups, d_state) if groups else (d_state,)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    of_states = dtype.to_complex() if is_complex else dtype
    real = -torch.rand(members, d_inner, d_state, dtype=wide) - 0.1
    made = {
        "x": torch.randn(*positions, d_inner, dtype=dtype),
        "dt": torch.randn(*positions, d_inner, dtype=dtype),
        "A": torch.complex(real, torch.randn(members, d_inner, d_state, dtype=wide)) if is_complex else real,
        "B": torch.randn(*positions, *states, dtype=of_states),
        "C": torch.randn(*positions, *states, dtype=of_states),
        "D": torch.randn(members, d_inner, dtype=wide),
        "z": torch.randn(*positions, d_inner, dtype=dtype),
        "dt_bias": torch.randn(members, d_inner, dtype=wide),
    }
    return {name: values.to(device) for name, values in made.items()}


def conv_inputs(
    members: int,
    batch: int,
    seqlen: int,
    d: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Inputs:
    """Return the convolution's inputs."""
    torch.manual_seed(width)
    shapes = {"x": (members, batch, seqlen, d), "weight": (members, d, width), "bias": (members, d)}
    return {name: torch.randn(shape, dtype=dtype).to(device) for name, shape in shapes.items()}


def norm_inputs(
    members: int, batch: int, seqlen: int, d: int, *, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Inputs:
    """Return the norm's inputs; the residual stream is never below fp32."""
    torch.manual_seed(d)
    shape = (members, batch, seqlen, d)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    made = {
        "x": torch.randn(shape, dtype=dtype),
        "weight": torch.randn(members, d, dtype=wide),
        "residual": torch.randn(shape, dtype=wide),
    }
    return {name: values.to(device) for name, values in made.items()}


def _leaves(values: Inputs) -> Inputs:
    return {name: one.clone().requires_grad_() for name, one in values.items()}


def _backward(outputs: tuple[Tensor, ...], weights: list[Tensor]) -> None:
    total = torch.stack([(one * weight).real.sum().double() for one, weight in zip(outputs, weights, strict=True)])
    torch.autograd.backward(total.sum())


def _close(found: Tensor | None, expected: Tensor | None) -> None:
    assert found is not None
    assert expected is not None
    assert found.dtype == expected.dtype
    tolerance = TOLERANCES[torch.float64 if expected.is_complex() else expected.dtype]
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance * max(scale, 1e-3))
