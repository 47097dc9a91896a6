"""The Triton scan as torch operators: what it refuses, its registration with torch.library, and its gradients.

Two opaque operators, forward and backward, so that `torch.compile` neither breaks the graph nor looks inside; the arguments'
dtypes are settled before them, by ordinary operations that autograd differentiates.
"""

from dataclasses import fields
from functools import partial
from math import lcm
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.selective_scan.saved import used_once
from kernels.selective_scan.triton_checkpoints import in_halves, kept_shape, rows_over, share_memory
from kernels.selective_scan.triton_complex_launch import complex_forward, padded_states
from kernels.selective_scan.triton_launch import Arguments, scan_forward

if TYPE_CHECKING:
    from kernels.selective_scan.triton_bwd_launch import Gradients

MAX_STATES = 256


def refusal(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> str:
    """Say why the Triton kernel cannot serve these arguments; "" when it can."""
    del dt_softplus, reset
    named = (("x", x), ("dt", dt), ("A", A), ("B", B), ("C", C), ("D", D), ("z", z), ("dt_bias", dt_bias))
    for name, tensor in (*named, ("initial_state", initial_state)):
        if tensor is not None and tensor.dtype in (torch.float64, torch.complex128):
            return f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
    if A.shape[1] > MAX_STATES:
        return f"d_state {A.shape[1]} is above {MAX_STATES}"
    return ""


def selective_scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state; see `selective_scan`. Arguments are taken as checked and not refused."""
    state = torch.complex64 if A.is_complex() else torch.float32
    B, C = same_groups(_state_input(B, state), _state_input(C, state))
    dt = dt.float() if dt.dim() == 1 else dt
    D, dt_bias = (None if values is None else values.float().contiguous() for values in (D, dt_bias))
    initial_state = None if initial_state is None else initial_state.to(state).contiguous()
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    save = torch.is_grad_enabled() and any(values is not None and values.requires_grad for values in tensors)
    y, final_state, _ = selective_scan_forward(
        x, dt, A.to(state).contiguous(), B, C, D, z, dt_bias, dt_softplus, initial_state, reset, save
    )
    return y, final_state


def _state_input(values: Tensor, state: torch.dtype) -> Tensor:
    """B or C as the kernel reads it: in the state's dtype if that is complex or it is constant, else as it is."""
    if values.dim() == 2:
        return values.to(state).contiguous()
    return values.to(state) if state.is_complex else values


def same_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat groups so that B and C have as many, where both have more than one."""
    if B.dim() != 4 or C.dim() != 4 or B.shape[2] == C.shape[2]:
        return B, C
    groups = lcm(B.shape[2], C.shape[2])
    return B.repeat_interleave(groups // B.shape[2], dim=2), C.repeat_interleave(groups // C.shape[2], dim=2)


def _unit_stride(values: Tensor) -> Tensor:
    """The same values with the channels adjacent in memory; a copy only where they are not."""
    return values if values.stride(-1) == 1 or values.shape[-1] == 1 else values.contiguous()


@torch.library.custom_op("mambalab::selective_scan_forward", mutates_args=())
def selective_scan_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    reset: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state and the checkpoints (empty unless `save`)."""
    arguments = Arguments(
        x=_unit_stride(x),
        dt=_unit_stride(dt),
        A=A,
        B=B,
        C=C,
        D=D,
        z=None if z is None else _unit_stride(z),
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        initial_state=initial_state,
        reset=None if reset is None else reset.contiguous(),
    )
    scan = complex_forward if A.is_complex() else scan_forward
    y, final_state, checkpoints = scan(arguments, save=save)
    return y, final_state, x.new_empty(0, dtype=torch.float32) if checkpoints is None else checkpoints


@selective_scan_forward.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    reset: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, seqlen, d_inner = x.shape
    kept = kept_shape(x, A.shape[1], halves=in_halves(x, dt, A, B, C, z))
    if A.is_complex():
        kept = (*kept[:2], d_inner, padded_states(A.shape[1]), 2)
    return (
        x.new_empty(batch, seqlen, d_inner),
        x.new_empty(batch, d_inner, A.shape[1], dtype=A.dtype),
        x.new_empty(kept if save else (0,), dtype=torch.float32),
    )


@torch.library.custom_op("mambalab::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    dy: Tensor,
    dfinal_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    reset: Tensor | None,
    checkpoints: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the nine floating arguments, shaped and typed as they are; empty for an absent one."""
    given = (x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, reset)
    return _all_gradients(dy, dfinal_state, given, checkpoints, spend=False)


@torch.library.custom_op("mambalab::selective_scan_backward_spending", mutates_args=("checkpoints",))
def selective_scan_backward_spending(
    dy: Tensor,
    dfinal_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    reset: Tensor | None,
    checkpoints: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `selective_scan_backward`, bit for bit, with less memory: the checkpoints serve no second backward.

    Empty too are those of x, dt and z that now lie where the checkpoints were: an operator may not return what it was given.
    """
    given = (x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, reset)
    return _all_gradients(dy, dfinal_state, given, checkpoints, spend=True)


def _all_gradients(
    dy: Tensor, dfinal_state: Tensor | None, given: tuple[Any, ...], checkpoints: Tensor, *, spend: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, reset = given
    arguments = Arguments(
        x=_unit_stride(x),
        dt=_unit_stride(dt),
        A=A,
        B=B,
        C=C,
        D=D,
        z=None if z is None else _unit_stride(z),
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        initial_state=initial_state,
        reset=None if reset is None else reset.contiguous(),
    )
    gradients = _gradients(arguments, _unit_stride(dy), dfinal_state, checkpoints, spend=spend)
    inputs = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    first, *rest = (
        _finished(gradient, values, x, checkpoints) for gradient, values in zip(gradients, inputs, strict=True)
    )
    return first, rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]


def _gradients(
    given: Arguments, dy: Tensor, dfinal_state: Tensor | None, checkpoints: Tensor, *, spend: bool
) -> "Gradients":
    if given.A.is_complex():
        from kernels.selective_scan.triton_complex_bwd_launch import complex_backward

        return complex_backward(given, dy, dfinal_state, checkpoints)
    from kernels.selective_scan.triton_bwd_launch import scan_backward

    named = {field.name: getattr(given, field.name) for field in fields(given)}
    return scan_backward(dy, dfinal_state, **named, checkpoints=checkpoints, spend=spend)


def _finished(gradient: Tensor | None, values: Tensor | None, x: Tensor, checkpoints: Tensor) -> Tensor:
    """A gradient as the operator returns it: contiguous and of its argument's dtype, or empty."""
    if values is None:
        return x.new_empty(0)
    assert gradient is not None
    if share_memory(gradient, checkpoints):
        return gradient.new_empty(0)
    return gradient.to(values.dtype).contiguous()


def _fake_gradients(
    dy: Tensor,
    dfinal_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    reset: Tensor | None,
    checkpoints: Tensor,
    *,
    spend: bool,
) -> tuple[Tensor, ...]:
    from kernels.selective_scan.triton_bwd_launch import spends_rows

    elsewhere = (x, dt, z) if spend and spends_rows(x, A, B, C, checkpoints) else ()
    return tuple(
        x.new_empty(0)
        if values is None
        else values.new_empty((0,) if any(values is row for row in elsewhere) else values.shape)
        for values in (x, dt, A, B, C, D, z, dt_bias, initial_state)
    )


selective_scan_backward.register_fake(partial(_fake_gradients, spend=False))
selective_scan_backward_spending.register_fake(partial(_fake_gradients, spend=True))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Save what the backward needs: the inputs and the checkpoints, nothing of the size of the expanded states."""
    *tensors, dt_softplus, initial_state, reset, save = inputs
    ctx.set_materialize_grads(False)
    ctx.dt_softplus = dt_softplus
    ctx.saved = save
    ctx.save_for_backward(*tensors, initial_state, reset, output[2])


def _backward(ctx: Any, dy: Tensor | None, dfinal_state: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    x, dt, A, B, C, D, z, dt_bias, initial_state, reset, checkpoints = ctx.saved_tensors
    if dy is None and dfinal_state is None:
        return (None,) * 12
    if not ctx.saved:
        raise RuntimeError("selective_scan: the forward kept no checkpoints, so there is nothing to go back from")
    dy = torch.zeros_like(x) if dy is None else dy
    spend = used_once(checkpoints) and not A.is_complex()
    backward = selective_scan_backward_spending if spend else selective_scan_backward
    gradients = backward(
        dy, dfinal_state, x, dt, A, B, C, D, z, dt_bias, ctx.dt_softplus, initial_state, reset, checkpoints
    )
    inputs = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    found = [None if values is None else gradient for gradient, values in zip(gradients, inputs, strict=True)]
    if gradients[0].shape != x.shape:
        found[0], found[1], found[6] = rows_over(checkpoints, (x, dt, z))
    return (*found[:8], None, found[8], None, None)


selective_scan_forward.register_autograd(_backward, setup_context=_keep)
