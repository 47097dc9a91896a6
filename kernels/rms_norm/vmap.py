"""The rule of `torch.vmap` for the Triton norm: the members of an ensemble are parts of the rows, each with its own weight."""

from typing import Any

from torch import Tensor

from kernels.common.members import first
from kernels.rms_norm.triton_op import rms_norm_op


@rms_norm_op.register_vmap
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    eps: float,
    keep: bool = False,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int | None, int]]:
    members = info.batch_size
    residual = None if residual is None else first(residual, in_dims[2], members)
    y, stream, rstd = rms_norm_op(
        first(x, in_dims[0], members), first(weight, in_dims[1], members), residual, eps, keep
    )
    return (y, stream, rstd), (0, 0 if stream.dim() > 1 else None, 0)
