"""How the forward lays out the states that it keeps, and where a backward puts gradients over them.

Kept states are fp32 (batch, tiles of 32 steps, d_state, d_inner). Where `in_halves`, a state's row of d_inner floats is in another
order, and its shape says so: (..., d_state, 2, d_inner / 2), runs of 64 channels alternating between the two halves. Read as 16-bit
numbers a half is a row of d_inner, and 128 neighbouring channels of the states are then also 128 neighbouring places of each such
row: a program of the backward owns the same channels of a gradient that is laid over the states it has read. A step has d_state / 16
such rows: the first three take the gradients of x, dt and z, and every fourth is left to sums of those of B and C.
"""

import torch
from torch import Tensor

CHECKPOINT_STEPS = 32
"""The forward keeps the state that enters every position divisible by this; the backward restarts from there."""
RUN_PAIR = 128
"""Channels whose states fill as many 16-bit places of each half: those of one program of the backward."""
LEAST_STATES = 64
"""With as many a step has four rows."""
GRADIENT_ROWS = 3


def in_halves(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> bool:
    """Whether the forward keeps states in halves: where gradients of 16 bits can take their place."""
    d_inner, d_state = A.shape
    if A.is_complex() or d_state % LEAST_STATES != 0 or dt.dim() != x.dim() or B.dim() == 2 or C.dim() == 2:
        return False
    ngroups = max(values.shape[2] if values.dim() == 4 else 1 for values in (B, C))
    short = all(values is None or values.element_size() == 2 for values in (x, dt, B, C, z))
    return short and d_inner % (ngroups * RUN_PAIR) == 0


def kept_shape(x: Tensor, d_state: int, *, halves: bool) -> tuple[int, ...]:
    """The shape of what the forward keeps."""
    batch, seqlen, d_inner = x.shape
    tiles = (seqlen + CHECKPOINT_STEPS - 1) // CHECKPOINT_STEPS
    return (batch, tiles, d_state, 2, d_inner // 2) if halves else (batch, tiles, d_state, d_inner)


def are_in_halves(checkpoints: Tensor) -> bool:
    """Whether these checkpoints of a real scan are in halves."""
    return checkpoints.dim() == 5


def rows_over(checkpoints: Tensor, rows: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Tensors like the three `rows`, (batch, seqlen, d_inner) of 16-bit numbers, in the memory of `checkpoints` in halves.

    They are no views to autograd, which would take what is written to one of them for a change of the others.
    """
    _, tiles, d_state, _, half = checkpoints.shape
    d_inner = 2 * half
    step = d_state // 16 * d_inner
    strides = (tiles * CHECKPOINT_STEPS * step, step, 1)
    first = checkpoints.storage_offset() * 2
    storage = checkpoints.untyped_storage()
    return [
        None if row is None else row.new_empty(0).set_(storage, first + place * d_inner, row.shape, strides)
        for place, row in enumerate(rows)
    ]


def sums_over(checkpoints: Tensor) -> Tensor:
    """The memory of `checkpoints` in halves as 16-bit integers from the first row on that no gradient takes."""
    return checkpoints.view(-1).view(torch.int16)[GRADIENT_ROWS * 2 * checkpoints.shape[4] :]


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in one allocation."""
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
