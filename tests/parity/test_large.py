"""More than 2^31 elements, where an offset of 32 bits would wrap: the end of a large tensor against the same end alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels.bench.verify import relative_error
from kernels.causal_conv1d import causal_conv1d
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan
from kernels.selective_state_update import selective_state_update

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.whole_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TAIL = 64
LONG = 2**20 + TAIL
WIDE = 2048
"""LONG x WIDE elements: those of the tail alone lie beyond 2^31."""


@pytest.fixture(autouse=True)
def fresh_memory() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, device="cuda", generator=torch.Generator("cuda").manual_seed(seed))


def scan_inputs() -> dict[str, Tensor]:
    states = torch.arange(1, 17, device="cuda").float()
    return {
        "x": normal(1, LONG, WIDE, seed=1),
        "dt": normal(1, LONG, WIDE, seed=2),
        "A": -states.repeat(WIDE, 1),
        "B": normal(1, LONG, 16, seed=3),
        "C": normal(1, LONG, 16, seed=4),
        "D": normal(WIDE, dtype=torch.float32, seed=5),
        "z": normal(1, LONG, WIDE, seed=6),
        "dt_bias": torch.linspace(-7, -2, WIDE, device="cuda"),
    }


def pieces(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what comes before the tail, and the tail."""
    head = {name: value[:, : LONG - TAIL] if value.dim() == 3 else value for name, value in tensors.items()}
    return head, {name: value[:, LONG - TAIL :] if value.dim() == 3 else value for name, value in tensors.items()}


def test_scan() -> None:
    tensors = scan_inputs()
    before, tail = pieces(tensors)
    with torch.no_grad():
        entering = selective_scan(**before, dt_softplus=True, implementation="triton").final_state
        end = selective_scan(**tail, dt_softplus=True, initial_state=entering, implementation="triton")
    varying = {name: tensors[name].requires_grad_() for name in ("x", "dt", "B", "C", "z")}
    whole = selective_scan(**tensors, dt_softplus=True, implementation="triton")
    assert relative_error(whole.y[:, -TAIL:].detach(), end.y.double()) < 4e-3
    assert relative_error(whole.final_state.detach(), end.final_state.double()) < 1e-5
    seed = normal(1, LONG, WIDE, seed=7)
    found = torch.autograd.grad(whole.y, list(varying.values()), seed)
    leaves = {name: tail[name].detach().clone().requires_grad_() for name in varying}
    alone = selective_scan(**(tail | leaves), dt_softplus=True, initial_state=entering, implementation="triton")
    expected = torch.autograd.grad(alone.y, list(leaves.values()), seed[:, -TAIL:])
    for name, ours, theirs in zip(varying, found, expected, strict=True):
        assert relative_error(ours[:, -TAIL:], theirs.double()) < 4e-3, name


@pytest.mark.parametrize("width", [4, 9])
def test_convolution(width: int) -> None:
    x, weight = normal(1, LONG, WIDE, seed=1).requires_grad_(), normal(WIDE, width, dtype=torch.float32, seed=2)
    whole = causal_conv1d(x, weight, activation="silu", implementation="triton")
    (gradient,) = torch.autograd.grad(whole.y, x, seed := normal(1, LONG, WIDE, seed=3))
    tail = x[:, -TAIL:].detach().clone().requires_grad_()
    before = x[:, LONG - TAIL - width + 1 : LONG - TAIL].detach()
    end = causal_conv1d(tail, weight, activation="silu", initial_state=before, implementation="triton")
    (expected,) = torch.autograd.grad(end.y, tail, seed[:, -TAIL:])
    assert torch.equal(whole.y[:, -TAIL:], end.y)
    assert torch.equal(whole.final_state, end.final_state)
    assert torch.equal(gradient[:, -TAIL:], expected)


def test_norm() -> None:
    x, residual = normal(LONG, WIDE, seed=1).requires_grad_(), normal(LONG, WIDE, dtype=torch.float32, seed=2)
    weight = normal(WIDE, dtype=torch.float32, seed=3)
    whole = rms_norm(x, weight, residual=residual, implementation="triton")
    (gradient,) = torch.autograd.grad(whole.y, x, seed := normal(LONG, WIDE, seed=4))
    tail = x[-TAIL:].detach().clone().requires_grad_()
    end = rms_norm(tail, weight, residual=residual[-TAIL:], implementation="triton")
    (expected,) = torch.autograd.grad(end.y, tail, seed[-TAIL:])
    assert torch.equal(whole.y[-TAIL:], end.y)
    assert torch.equal(whole.residual[-TAIL:], end.residual)
    assert torch.equal(gradient[-TAIL:], expected)


def test_decode_step() -> None:
    batch = 2**16 + TAIL
    state, x, dt = (
        normal(batch, WIDE, 16, dtype=torch.float32),
        normal(batch, WIDE, seed=1),
        normal(batch, WIDE, seed=2),
    )
    A = -torch.arange(1, 17, device="cuda").float().repeat(WIDE, 1)
    B, C = normal(batch, 16, seed=3), normal(batch, 16, seed=4)
    tail = state[-TAIL:].clone()
    y = selective_state_update(state, x, dt, A, B, C, dt_softplus=True, implementation="triton")
    expected = selective_state_update(
        tail, x[-TAIL:], dt[-TAIL:], A, B[-TAIL:], C[-TAIL:], dt_softplus=True, implementation="triton"
    )
    assert torch.equal(y[-TAIL:], expected)
    assert torch.equal(state[-TAIL:], tail)
