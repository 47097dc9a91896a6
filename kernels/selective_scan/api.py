"""The public function: checks, choice of implementation, and nothing else."""

from types import ModuleType
from typing import NamedTuple

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
from kernels.common.choice import ScanImplementation, resolve, wants_triton
from kernels.common.errors import ShapeError
from kernels.selective_scan.chunked import selective_scan_chunked
from kernels.selective_scan.reference import selective_scan_reference

OP = "selective_scan"


class ScanOutput(NamedTuple):
    """What the scan returns, whatever its arguments."""

    y: Tensor
    final_state: Tensor


def selective_scan(
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
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    implementation: ScanImplementation = "auto",
) -> ScanOutput:
    """Run the Mamba-1 recurrence over the sequence and return every output.

    Computes: dt' = softplus(dt + dt_bias);  h[t] = exp(dt'[t] A) h[t-1] + dt'[t] B[t] x[t];
        y[t] = (C[t] h[t] + D x[t]) * silu(z[t]), and with complex A 2 Re(C[t] h[t]) in place of C[t] h[t]

    Shapes:
        x, z: (batch, seqlen, d_inner);  dt: the same, or constant (d_inner,);  A: (d_inner, d_state)
        B, C: (batch, seqlen, d_state), (batch, seqlen, ngroups, d_state) or constant (d_inner, d_state)
        D, dt_bias: (d_inner,);  initial_state: (batch, d_inner, d_state);  reset: (batch, seqlen)
        y: as x;  final_state: (batch, d_inner, d_state)
        Channel d takes group d // (d_inner / ngroups) of B and C.
    Dtypes: x, dt, z, B, C, A, D, dt_bias any floating dtype, mixed as autocast leaves them; y has that of x. Computed
        and final_state in fp32, in fp64 where x is fp64, and in the complex of these where A is complex (B and C may
        then be complex). reset is bool: True zeroes the state before that position's update.
    Units: dt is a dimensionless positive step after bias and softplus.
    Numerics: no quotient and no exponential of a sum of steps, so any dt A <= 0 is safe. Error bounds and the tests that
        enforce them: README.md of this folder.
    Gradients: of every floating argument, and through both outputs. What is saved and recomputed: README.md.
        The reference can be differentiated again, the others once.
    Determinism: bitwise on one machine with one number of threads; no atomics.
    Limits: seqlen >= 1 and any strides; `torch.vmap` over any argument but reset, once. The Triton kernel takes
        neither float64 nor complex128, and d_state up to 256.

    Raises:
        ShapeError: names argument, expected and received shape.
        UnsupportedError: device, dtype or implementation; names what works instead.

    Source: Gu & Dao 2023 (arXiv 2312.00752), Algorithm 2. As in their released code, B-bar is dt B (Euler), not
        zero-order hold. Departures from that code: initial_state, reset and the gradient of final_state.
    """
    _check_main(x, dt, A, B, C)
    _check_optional(x, A, D, z, dt_bias, initial_state, reset)
    triton = _triton() if wants_triton(OP, implementation, x.device.type) else None
    arguments = (x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, reset)
    refusal = "" if triton is None else triton.refusal(*arguments)
    chosen = resolve(OP, implementation, "chunked", x.device.type, refusal)
    if chosen == "triton":
        assert triton is not None
        return ScanOutput(*triton.selective_scan_triton(*arguments))
    plain = selective_scan_reference if chosen == "reference" else selective_scan_chunked
    with torch.autocast(x.device.type, enabled=False):
        y, final_state = plain(
            x,
            dt,
            A,
            B,
            C,
            D=D,
            z=z,
            dt_bias=dt_bias,
            dt_softplus=dt_softplus,
            initial_state=initial_state,
            reset=reset,
        )
    return ScanOutput(y, final_state)


def _triton() -> ModuleType:
    from kernels.selective_scan import triton_op, vmap  # noqa: F401 - the rule registers itself

    return triton_op


def _check_main(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    check_dtype(OP, "x", x, FLOATING)
    check_dtype(OP, "dt", dt, FLOATING)
    check_dtype(OP, "A", A, FLOATING_OR_COMPLEX)
    check_rank(OP, "x", x, ("(batch, seqlen, d_inner)",))
    batch, seqlen, d_inner = x.shape
    sizes = (("batch", batch), ("seqlen", seqlen), ("d_inner", d_inner))
    check_nonempty(OP, "x", sizes)
    check_rank(OP, "dt", dt, ("(batch, seqlen, d_inner)", "(d_inner,)"))
    check_shape(OP, "dt", dt, sizes if dt.dim() == 3 else sizes[2:])
    check_rank(OP, "A", A, ("(d_inner, d_state)",))
    d_state = A.shape[1]
    check_shape(OP, "A", A, (("d_inner", d_inner), ("d_state", d_state)))
    check_nonempty(OP, "A", (("d_state", d_state),))
    for name, values in (("B", B), ("C", C)):
        _check_state_input(name, values, A, sizes)
    check_device(OP, x, (("dt", dt), ("A", A), ("B", B), ("C", C)))


def _check_state_input(name: str, values: Tensor, A: Tensor, sizes: tuple[tuple[str, int], ...]) -> None:
    """Check B or C."""
    check_dtype(OP, name, values, FLOATING_OR_COMPLEX if A.is_complex() else FLOATING)
    forms = ("(batch, seqlen, d_state)", "(batch, seqlen, ngroups, d_state)", "(d_inner, d_state)")
    check_rank(OP, name, values, forms)
    last = (("d_state", A.shape[1]),)
    if values.dim() == 2:
        check_shape(OP, name, values, sizes[2:] + last)
    elif values.dim() == 3:
        check_shape(OP, name, values, sizes[:2] + last)
    else:
        ngroups = values.shape[2]
        check_shape(OP, name, values, (*sizes[:2], ("ngroups", ngroups), *last))
        if ngroups < 1 or A.shape[0] % ngroups:
            raise ShapeError(f"{OP}: {name} must have ngroups that divide d_inner={A.shape[0]}, got ngroups={ngroups}")


def _check_optional(
    x: Tensor,
    A: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> None:
    batch, seqlen, d_inner = x.shape
    channels = (("d_inner", d_inner),)
    positions = (("batch", batch), ("seqlen", seqlen))
    state = (("batch", batch), ("d_inner", d_inner), ("d_state", A.shape[1]))
    for name, values, dims in (
        ("D", D, channels),
        ("z", z, positions + channels),
        ("dt_bias", dt_bias, channels),
        ("initial_state", initial_state, state),
    ):
        if values is not None:
            complex_state = name == "initial_state" and A.is_complex()
            check_dtype(OP, name, values, FLOATING_OR_COMPLEX if complex_state else FLOATING)
            check_shape(OP, name, values, dims)
    if reset is not None:
        check_dtype(OP, "reset", reset, (torch.bool,))
        check_shape(OP, "reset", reset, positions)
    check_device(OP, x, (("D", D), ("z", z), ("dt_bias", dt_bias), ("initial_state", initial_state), ("reset", reset)))
