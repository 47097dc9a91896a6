"""Host side of the backward scan's main kernels: what they write, which of the two runs, and with which arguments."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.selective_scan.triton_bwd import scan_backward_kernel
from kernels.selective_scan.triton_bwd_copies import BLOCK_STATES, INTERPRETED_FLOATS, scan_backward_copies_kernel
from kernels.selective_scan.triton_bwd_plan import (
    STATE_BLOCK,
    TILE,
    Plan,
    Problem,
    in_pairs,
    three_strides,
)
from kernels.selective_scan.triton_checkpoints import RUN_PAIR, are_in_halves, rows_over, sums_over
from kernels.selective_scan.triton_common import INTERPRETED

CHANNELS_OF_COPIES = 2
STATES_OF_COPIES = (8, 16)
"""More states and what waits in shared memory does not fit."""
FEWEST_WARPS = 4
"""With fewer the kernel wants less than 48 KiB of dynamic memory, and Triton then does not let a launch have more than 48 KiB in all."""
PART = 2 * TILE
"""Sums of dB and dC for one state, of one program and one tile."""
COPY_BYTES = 16
"""Bytes of a copy: eight 16-bit numbers."""
LAID_BYTES = 4
"""Bytes of one number of B or C as laid out; both of one state are as many numbers as their sums, PART."""


class Laid(NamedTuple):
    """A, B and C as `prepare_kernel` leaves them; a constant's matrix or None."""

    A: Tensor
    BC: Tensor
    B: Tensor | None
    C: Tensor | None


class Partial(NamedTuple):
    """What the main kernel wrote: finished gradients, and partial sums.

    Those of dB and dC: fp32 (batch, tiles, d_state, blocks of channels, BC_width), of which the first 32 are dB, the next 32 dC.
    With `scales` 16-bit integers as in triton_bwd_short.
    """

    dx: Tensor
    ddt: Tensor | None
    dz: Tensor | None
    dA: Tensor
    dB: Tensor | None
    dC: Tensor | None
    dD: Tensor
    dbias: Tensor
    BC: Tensor
    BC_width: int
    scales: Tensor | None
    blocks: int


def run_main(problem: Problem, plan: Plan, laid: Laid, carry: Tensor, carried: bool) -> Partial:
    """Run the main kernel: the gradients of inputs, and the sums over each program's channels or positions.

    Args:
        carry: fp32 (batch, chunks, d_state, d_inner): the gradient that enters each chunk from the future, if `carried`; what leaves it
            towards the past after the call.
    """
    x = problem.x
    batch, seqlen, d_inner = x.shape
    state, tiles, places = problem.state, problem.tiles, batch * plan.chunks
    span = plan.width
    group_size = d_inner // problem.ngroups
    blocks = problem.ngroups * math.ceil(group_size / span)
    programs = blocks * places
    pairs = plan.channels == 2 and group_size % 2 == 0 and all(in_pairs(row) for row in problem.rows())
    adjacent = [row is None or row.stride(2) == 1 for row in problem.rows()]
    masked = seqlen % TILE != 0 or group_size % span != 0
    copies = serves_copies(problem, plan, masked=masked or not pairs)
    sums = (places, state, d_inner)
    dx, ddt, dz = _rows(problem, over=problem.spend and goes_over(problem.checkpoints, plan))
    BC, BC_width, scales = _partial_sums(problem, plan, blocks)
    partial = Partial(
        dx=dx,
        ddt=ddt,
        dz=dz,
        dA=carry if copies and not problem.initial else x.new_empty(sums, dtype=torch.float32),
        dB=x.new_empty(sums, dtype=torch.float32) if problem.B_constant else None,
        dC=x.new_empty(sums, dtype=torch.float32) if problem.C_constant else None,
        dD=x.new_empty((places, d_inner), dtype=torch.float32),
        dbias=x.new_empty((places, d_inner), dtype=torch.float32),
        BC=BC,
        BC_width=BC_width,
        scales=scales,
        blocks=blocks,
    )
    if copies:
        _run_with_copies(problem, plan, laid, carry, carried, partial, programs)
        return partial
    scratch = None  # only the interpreter has no shared memory to claim
    if INTERPRETED:
        scratch = x.new_empty((programs, plan.warps, 2, min(state, STATE_BLOCK), TILE), dtype=torch.float32)
    row_x, row_dt, row_z, row_dy = (
        row.stride(1) if row is not None and unit else 0 for row, unit in zip(problem.rows(), adjacent, strict=True)
    )
    exact = any(values.dtype == torch.float32 or values.dtype == torch.float16 for values in (problem.B, problem.C))
    scan_backward_kernel[(programs,)](
        x,
        problem.dt,
        problem.z,
        problem.dy,
        laid.A,
        laid.BC,
        laid.B,
        laid.C,
        problem.D,
        problem.dt_bias,
        problem.reset,
        problem.checkpoints,
        carry,
        partial.dx,
        partial.dx if partial.ddt is None else partial.ddt,
        partial.dz,
        partial.dA,
        partial.dB,
        partial.dC,
        partial.dD,
        partial.dbias,
        partial.BC,
        partial.scales,
        x if scratch is None else scratch,
        partial.BC_width,
        seqlen,
        tiles,
        plan.chunks,
        plan.chunk_tiles,
        *(stride for row in problem.rows() for stride in three_strides(row)),
        *((0, 0) if problem.reset is None else problem.reset.stride()),
        partial.dx.stride(0),
        ROW_X=row_x,
        ROW_DT=row_dt,
        ROW_Z=row_z,
        ROW_DY=row_dy,
        ROW_OUT=partial.dx.stride(1),
        D_INNER=d_inner,
        D_STATE=state,
        GROUPS=problem.ngroups,
        SOFTPLUS=problem.softplus,
        DT_CONSTANT=problem.dt_constant,
        BLOCK=min(state, STATE_BLOCK),
        WARPS=plan.warps,
        CHANNELS=plan.channels,
        PAIRS=pairs,
        MASKED=masked,
        EXACT=exact,
        CARRIED=carried,
        PREFETCH=plan.prefetch and all(adjacent) and not masked,
        HALVES=are_in_halves(problem.checkpoints),
        num_warps=plan.warps,
    )
    return partial


def goes_over(checkpoints: Tensor, plan: Plan) -> bool:
    """Whether a backward that may spend `checkpoints` writes the gradients of x, dt and z over them, beside sums of 16 bits."""
    return are_in_halves(checkpoints) and plan.width == RUN_PAIR


def _rows(problem: Problem, *, over: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Where the gradients of x, dt (None for a constant one) and z go."""
    x, dt, z, _ = problem.rows()
    assert x is not None
    if over:
        dx, ddt, dz = rows_over(problem.checkpoints, (x, dt, z))
        assert dx is not None
        return dx, ddt, dz
    ddt, dz = (None if row is None else torch.empty_like(row, memory_format=torch.contiguous_format) for row in (dt, z))
    return torch.empty_like(x, memory_format=torch.contiguous_format), ddt, dz


def _partial_sums(problem: Problem, plan: Plan, blocks: int) -> tuple[Tensor, int, Tensor | None]:
    """Where the sums of dB and dC go, how far apart two programs' are, and the scales of those of 16 bits."""
    x, batch, tiles, state = problem.x, problem.x.shape[0], problem.tiles, problem.state
    if goes_over(problem.checkpoints, plan):
        scales = x.new_empty((batch, tiles, blocks, 2, state), dtype=torch.float32)
        if problem.spend:
            return sums_over(problem.checkpoints), 4 * RUN_PAIR, scales
        return x.new_empty((batch, tiles, state // 2, blocks, RUN_PAIR), dtype=torch.int16), RUN_PAIR, scales
    selective = not (problem.B_constant and problem.C_constant)
    whole = x.shape[2] // problem.ngroups % plan.width == 0 and plan.width >= PART
    if problem.spend and selective and whole and not are_in_halves(problem.checkpoints):
        return problem.checkpoints, plan.width, None
    return x.new_empty((batch, tiles, state, blocks, PART) if selective else (1,), dtype=torch.float32), PART, None


def serves_copies(problem: Problem, plan: Plan, *, masked: bool) -> bool:
    """Whether the kernel that copies its inputs ahead can run: whole tiles of aligned 16-bit rows, selective and without resets."""
    whole = not masked and plan.channels == CHANNELS_OF_COPIES and plan.warps >= FEWEST_WARPS
    # a thread without a copy of its own writes zeros behind what is copied, where other operands wait
    busy = 32 * plan.warps <= problem.state * PART * LAID_BYTES // COPY_BYTES
    whole = whole and busy and problem.state in STATES_OF_COPIES
    selective = not (problem.dt_constant or problem.B_constant or problem.C_constant)
    return whole and selective and problem.reset is None and all(row is None or _aligned(row) for row in problem.rows())


def _aligned(row: Tensor) -> bool:
    """Whether 16 bytes can be copied from every eighth channel on."""
    eight = COPY_BYTES // row.element_size()
    steps = (row.stride(0), row.stride(1))
    return (
        row.element_size() == 2
        and row.stride(2) == 1
        and row.data_ptr() % COPY_BYTES == 0
        and not any(s % eight for s in steps)
    )


def _run_with_copies(
    problem: Problem, plan: Plan, laid: Laid, carry: Tensor, carried: bool, partial: Partial, programs: int
) -> None:
    x = problem.x
    rows = problem.rows()
    scratch = partial.dA  # only the interpreter has no shared memory to claim
    if INTERPRETED:
        scratch = x.new_empty((programs * INTERPRETED_FLOATS,), dtype=torch.float32)
    scan_backward_copies_kernel[(programs,)](
        x,
        problem.dt,
        problem.z,
        problem.dy,
        laid.A,
        laid.BC,
        problem.D,
        problem.dt_bias,
        problem.checkpoints,
        carry,
        partial.dx,
        partial.ddt,
        partial.dz,
        partial.dA,
        partial.dD,
        partial.dbias,
        partial.BC,
        scratch,
        partial.BC_width,
        x.shape[1],
        problem.tiles,
        plan.chunks,
        plan.chunk_tiles,
        *(0 if row is None else row.stride(0) for row in rows),
        *(0 if row is None else row.stride(1) for row in rows),
        D_INNER=x.shape[2],
        D_STATE=problem.state,
        GROUPS=problem.ngroups,
        SOFTPLUS=problem.softplus,
        BLOCK=BLOCK_STATES,
        WARPS=plan.warps,
        EXACT=any(values.dtype != torch.bfloat16 for values in (problem.B, problem.C)),
        CARRIED=carried,
        INITIAL=problem.initial,
        num_warps=plan.warps,
    )
