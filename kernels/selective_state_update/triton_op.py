"""The Triton decode step as a `torch.library` op: `torch.ops.mambalab.selective_state_update`, which mutates its state.

An op that mutates its argument has no gradient; where one is wanted, `refusal` says so and the plain form serves.
"""

import torch
import triton
from torch import Tensor

from kernels.common.devices import on_device
from kernels.selective_state_update.triton_kernels import state_update

TILE, WARPS = 512, 2
MAX_BLOCK_N = 64
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refusal(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> str:
    """Why the Triton kernel cannot serve these arguments; empty when it can."""
    named = (
        ("state", state), ("x", x), ("dt", dt), ("A", A), ("B", B), ("C", C), ("D", D), ("z", z), ("dt_bias", dt_bias),
    )  # fmt: skip
    for name, tensor in named:
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            return f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}, the kernel takes float32, bfloat16 and float16"
        if tensor.requires_grad and torch.is_grad_enabled():
            return f"{name} requires a gradient, the kernel updates the state in place and has none (use torch.no_grad)"
    return ""


def selective_state_update_triton(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """Advance `state` (batch, d_inner, d_state) by one position in place and return y (batch, d_inner)."""
    y: Tensor = torch.ops.mambalab.selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    return y


@torch.library.custom_op("mambalab::selective_state_update", mutates_args=("state",))
def _selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    y = _output(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    batch, d_inner, d_state = state.shape
    if y.numel() == 0:
        return y
    step = dt.expand(batch, d_inner)
    b, c = (matrix if matrix.dim() == 3 else matrix[:, None] for matrix in (B, C))
    gate = x if z is None else z
    block_n = min(MAX_BLOCK_N, triton.next_power_of_2(d_state))
    with on_device(x):
        block_d = min(TILE // block_n, triton.next_power_of_2(d_inner))
        state_update[(batch, triton.cdiv(d_inner, block_d))](
            state, x, step, A, b, c, x if D is None else D, gate, x if dt_bias is None else dt_bias, y, d_inner, d_state,
            *state.stride(), *x.stride(), *step.stride(), *A.stride(), *b.stride(), *c.stride(),
            0 if D is None else D.stride(0), *gate.stride(), 0 if dt_bias is None else dt_bias.stride(0),
            d_inner // b.shape[1], d_inner // c.shape[1],
            HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=dt_bias is not None, SOFTPLUS=dt_softplus,
            BLOCK_D=block_d, BLOCK_N=block_n, num_warps=WARPS,
        )  # fmt: skip
    return y


def _output(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_selective_state_update.register_fake(_output)
