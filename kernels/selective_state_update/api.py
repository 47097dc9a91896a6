"""The public function: checks, choice of implementation, and nothing else."""

from types import ModuleType

import torch
from torch import Tensor

from kernels.common.checks import (
    FLOATING,
    FLOATING_OR_COMPLEX,
    check_device,
    check_dtype,
    check_nonempty,
    check_rank,
    check_shape,
)
from kernels.common.choice import Implementation, resolve, wants_triton
from kernels.common.errors import ShapeError
from kernels.selective_state_update.reference import selective_state_update_reference
from kernels.selective_state_update.torch_impl import selective_state_update_torch

OP = "selective_state_update"


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    implementation: Implementation = "auto",
) -> Tensor:
    """Run the Mamba-1 recurrence for one position and advance the state in place.

    Computes: as `selective_scan` for seqlen 1, with `state` as its initial state, which becomes its final state.

    Shapes:
        state: (batch, d_inner, d_state);  x, z, y: (batch, d_inner);  dt: the same, or constant (d_inner,)
        A: (d_inner, d_state);  B, C: (batch, d_state) or (batch, ngroups, d_state);  D, dt_bias: (d_inner,)
        A constant B or C is one group a channel: `B.expand(batch, d_inner, d_state)`. Plain (d_inner, d_state) is not
        taken, as it could not be told from (batch, d_state) where the two sizes are equal.
    Dtypes: state fp32 or fp64, or the complex of these where A is complex; it is what is computed in. The others any
        floating dtype; y has that of x.
    Numerics: as `selective_scan`.
    Gradients: the plain forms are differentiable as any in-place change is; the Triton kernel has no gradient.
    Determinism: bitwise.
    Limits: any strides.

    Raises:
        ShapeError: names argument, expected and received shape.
        UnsupportedError: device, dtype or implementation; names what works instead.

    Source: as `selective_scan`.
    """
    _check_main(state, x, dt, A)
    _check_rest(x, A, (("B", B), ("C", C)), (("D", D), ("z", z), ("dt_bias", dt_bias)))
    triton = _triton() if wants_triton(OP, implementation, x.device.type) else None
    arguments = (state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    refusal = "" if triton is None else triton.refusal(*arguments[:-1])
    chosen = resolve(OP, implementation, "torch", x.device.type, refusal)
    if chosen == "triton":
        assert triton is not None
        y: Tensor = triton.selective_state_update_triton(*arguments)
        return y
    plain = selective_state_update_reference if chosen == "reference" else selective_state_update_torch
    with torch.autocast(x.device.type, enabled=False):
        return plain(state, x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus)


def _triton() -> ModuleType:
    from kernels.selective_state_update import triton_op

    return triton_op


def _check_main(state: Tensor, x: Tensor, dt: Tensor, A: Tensor) -> None:
    for name, values in (("x", x), ("dt", dt)):
        check_dtype(OP, name, values, FLOATING)
    check_dtype(OP, "A", A, FLOATING_OR_COMPLEX)
    check_rank(OP, "x", x, ("(batch, d_inner)",))
    sizes = (("batch", x.shape[0]), ("d_inner", x.shape[1]))
    check_nonempty(OP, "x", sizes)
    check_rank(OP, "dt", dt, ("(batch, d_inner)", "(d_inner,)"))
    check_shape(OP, "dt", dt, sizes if dt.dim() == 2 else sizes[1:])
    check_rank(OP, "A", A, ("(d_inner, d_state)",))
    states = (sizes[1], ("d_state", A.shape[1]))
    check_shape(OP, "A", A, states)
    check_nonempty(OP, "A", states)
    check_dtype(OP, "state", state, _state_dtypes(x, A))
    check_shape(OP, "state", state, (sizes[0], *states))
    check_device(OP, x, (("state", state), ("dt", dt), ("A", A)))


def _state_dtypes(x: Tensor, A: Tensor) -> tuple[torch.dtype, ...]:
    real = (torch.float64,) if x.dtype == torch.float64 else (torch.float32, torch.float64)
    return tuple(dtype.to_complex() for dtype in real) if A.is_complex() else real


def _check_rest(
    x: Tensor, A: Tensor, inputs: tuple[tuple[str, Tensor], ...], optional: tuple[tuple[str, Tensor | None], ...]
) -> None:
    """Check B and C, then D, z and dt_bias."""
    batch, d_inner = x.shape
    for name, values in inputs:
        check_dtype(OP, name, values, FLOATING_OR_COMPLEX if A.is_complex() else FLOATING)
        check_rank(OP, name, values, ("(batch, d_state)", "(batch, ngroups, d_state)"))
        groups = (("ngroups", values.shape[1]),) if values.dim() == 3 else ()
        check_shape(OP, name, values, (("batch", batch), *groups, ("d_state", A.shape[1])))
        if groups and (not values.shape[1] or d_inner % values.shape[1]):
            raise ShapeError(f"{OP}: {name} must have ngroups that divide d_inner={d_inner}, got {values.shape[1]}")
    for name, given in optional:
        if given is not None:
            check_dtype(OP, name, given, FLOATING)
            check_shape(OP, name, given, (("batch", batch), ("d_inner", d_inner))[0 if name == "z" else 1 :])
    check_device(OP, x, (*inputs, *optional))
