"""The rule of `torch.vmap` for the Triton scan: the members of an ensemble are groups of channels side by side."""

from typing import Any

import torch
from torch import Tensor

from kernels.common.errors import UnsupportedError
from kernels.common.members import apart, side_by_side
from kernels.selective_scan.triton_op import same_groups, selective_scan_forward


@selective_scan_forward.register_vmap
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
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
    save: bool,  # noqa: ARG001 - asked for inside vmap, where no tensor says whether it requires a gradient
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, None]]:
    if in_dims[10] is not None:
        raise UnsupportedError("selective_scan: vmap over reset is not supported: members share their resets")
    members: int = info.batch_size

    def merged(values: Tensor | None, place: int, dim: int) -> Tensor | None:
        return None if values is None else side_by_side(values, in_dims[place], dim, members)

    constant_dt = dt.dim() - (in_dims[1] is not None) == 1
    B, C = same_groups(_as_groups(B, in_dims[3], members), _as_groups(C, in_dims[4], members))
    tensors = (
        side_by_side(x, in_dims[0], 2, members),
        side_by_side(dt, in_dims[1], 0 if constant_dt else 2, members),
        side_by_side(A, in_dims[2], 0, members),
        B,
        C,
        merged(D, 5, 0),
        merged(z, 6, 2),
        merged(dt_bias, 7, 0),
    )
    state = merged(initial_state, 9, 1)
    wanted = any(values is not None and values.requires_grad for values in (*tensors, state))
    y, final_state, checkpoints = selective_scan_forward(
        *tensors, dt_softplus, state, reset, torch.is_grad_enabled() and wanted
    )
    return (apart(y, 2, members), apart(final_state, 1, members), checkpoints), (2, 1, None)


def _as_groups(values: Tensor, in_dim: int | None, members: int) -> Tensor:
    """Return the members' B or C as groups, a view where each member has one; constants as channels."""
    own_dims = values.dim() - (in_dim is not None)
    if own_dims == 2:
        return side_by_side(values, in_dim, 0, members)
    if own_dims == 4:
        return side_by_side(values, in_dim, 2, members)
    if in_dim is None:
        return values.unsqueeze(2).expand(*values.shape[:2], members, values.shape[2])
    return values.movedim(in_dim, 2)
