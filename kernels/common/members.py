"""Layouts for `torch.vmap` over an op: K models that differ in no shape are the members of an ensemble, and one call serves all.

A per-channel op takes the members side by side along its channels (or its groups of channels), so that member k has the
channels [k * d, (k + 1) * d). The rules of `vmap` say so; the kernels know nothing of members.
"""

from torch import Tensor


def side_by_side(values: Tensor, in_dim: int | None, dim: int, members: int) -> Tensor:
    """Return the members' tensors along one dimension, the first member's part first.

    Args:
        in_dim: the dimension of the members, as `vmap` tells it; None: all have the same values.
        dim: the dimension of one member's tensor that grows by the factor `members`.
    """
    if in_dim is None:
        shape = (*values.shape[:dim], members, *values.shape[dim:])
        return values.unsqueeze(dim).expand(shape).flatten(dim, dim + 1)
    return values.movedim(in_dim, dim).flatten(dim, dim + 1)


def apart(values: Tensor, dim: int, members: int) -> Tensor:
    """Undo `side_by_side`: the members are then dimension `dim`, a view."""
    return values.reshape(*values.shape[:dim], members, values.shape[dim] // members, *values.shape[dim + 1 :])


def first(values: Tensor, in_dim: int | None, members: int) -> Tensor:
    """Return the members' tensors with the members as the first dimension."""
    return values.expand(members, *values.shape) if in_dim is None else values.movedim(in_dim, 0)
