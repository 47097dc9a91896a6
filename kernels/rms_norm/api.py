"""The public function: checks, choice of implementation, and nothing else."""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.common.checks import FLOATING, check_device, check_dtype, check_nonempty, check_shape
from kernels.common.choice import Implementation, resolve, wants_triton
from kernels.common.errors import ShapeError, UnsupportedError
from kernels.rms_norm.reference import rms_norm_reference
from kernels.rms_norm.torch_impl import rms_norm_torch

OP = "rms_norm"


class NormOutput(NamedTuple):
    """What the norm returns, whatever its arguments."""

    y: Tensor
    residual: Tensor


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    implementation: Implementation = "auto",
) -> NormOutput:
    """Add x to the residual stream and normalise the sum to a root mean square of one.

    Computes: r = x + residual;  y = r / sqrt(mean(r^2) + eps) * weight, the mean over the last dimension

    Shapes: x, residual, y: (..., d);  weight: (d,)
    Dtypes: any floating dtypes, mixed as autocast leaves them; computed in fp32 (fp64 where x is fp64). y has the dtype
        of x, the residual returned fp32 (fp64).
    Numerics: rounded once, from fp32 to the dtype of x.
    Gradients: of x, weight and residual, through both outputs. Saved: r and one number a row.
    Determinism: bitwise on one machine with one number of threads; no atomics.
    Limits: any number of leading dimensions, any strides; `torch.vmap` over any argument, once.

    Raises:
        ShapeError: names argument, expected and received shape.
        UnsupportedError: device, dtype or implementation; names what works instead.

    Source: Zhang & Sennrich 2019 (arXiv 1910.07467).
    """
    _check(x, weight, residual, eps)
    triton = _triton() if wants_triton(OP, implementation, x.device.type) else None
    refusal = "" if triton is None else triton.refusal(x, weight, residual, eps)
    chosen = resolve(OP, implementation, "torch", x.device.type, refusal)
    if chosen == "triton":
        assert triton is not None
        return NormOutput(*triton.rms_norm_triton(x, weight, residual, eps))
    plain = rms_norm_reference if chosen == "reference" else rms_norm_torch
    with torch.autocast(x.device.type, enabled=False):
        return NormOutput(*plain(x, weight, residual=residual, eps=eps))


def _triton() -> ModuleType:
    from kernels.rms_norm import triton_op, vmap  # noqa: F401 - the rule registers itself

    return triton_op


def _check(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> None:
    for name, values in (("x", x), ("weight", weight), ("residual", residual)):
        if values is not None:
            check_dtype(OP, name, values, FLOATING)
    if x.dim() < 1:
        raise ShapeError(f"{OP}: x must have shape (..., d), got a scalar")
    check_nonempty(OP, "x", tuple((f"dimension {index}", size) for index, size in enumerate(x.shape)))
    check_shape(OP, "weight", weight, (("d", x.shape[-1]),))
    if residual is not None and residual.shape != x.shape:
        raise ShapeError(f"{OP}: residual must have the shape of x, {tuple(x.shape)}, got {tuple(residual.shape)}")
    if not eps >= 0:
        raise UnsupportedError(f"{OP}: eps must be a number >= 0, got {eps!r}")
    check_device(OP, x, (("weight", weight), ("residual", residual)))
