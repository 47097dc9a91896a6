"""The rule of `torch.vmap` for the Triton convolution: the members of an ensemble are channels side by side."""

from typing import Any

from torch import Tensor

from kernels.causal_conv1d.triton_op import causal_conv1d_op
from kernels.common.errors import UnsupportedError
from kernels.common.members import apart, side_by_side


@causal_conv1d_op.register_vmap
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    silu: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    if in_dims[4] is not None:
        raise UnsupportedError("causal_conv1d: vmap over reset is not supported: members share their resets")
    members = info.batch_size
    y, final = causal_conv1d_op(
        side_by_side(x, in_dims[0], 2, members),
        side_by_side(weight, in_dims[1], 0, members),
        None if bias is None else side_by_side(bias, in_dims[2], 0, members),
        None if initial_state is None else side_by_side(initial_state, in_dims[3], 2, members),
        reset,
        silu,
    )
    return (apart(y, 2, members), apart(final, 2, members)), (2, 2)
