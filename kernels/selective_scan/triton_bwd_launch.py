"""Host side of the Triton backward scan: how the work is divided, what memory it takes, and which kernels run in which order."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.selective_scan.triton_bwd import scan_backward_kernel
from kernels.selective_scan.triton_bwd_reduce import (
    finish_kernel,
    join_carries_kernel,
    local_carry_kernel,
    prepare_kernel,
)
from kernels.selective_scan.triton_common import INTERPRETED

TILE = 32
STATE_BLOCK = 16
LANE_GROUPS = 8  # channel groups side by side in a warp
WARPS_WANTED = 1024  # main-kernel warps that fill a large GPU at 255 registers: 8 on each of 132 multiprocessors
CARRY_WARPS_WANTED = 8192


class Gradients(NamedTuple):
    """Gradients of the inputs of the same names; None where there was no input."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one backward is divided. It depends on shapes alone, so equal shapes give equal bits."""

    warps: int
    channels: int
    chunks: int
    chunk_tiles: int
    piece_steps: int
    prefetch: bool = True


def plan_backward(batch: int, seqlen: int, d_inner: int, d_state: int, ngroups: int) -> Plan:
    """Choose the division of a backward: sequence chunks when there are too few channels to fill the GPU."""
    channels = 2
    tiles = math.ceil(seqlen / TILE)
    group_size = d_inner // ngroups
    group_warps = math.ceil(group_size / (LANE_GROUPS * channels))
    strands = batch * ngroups * group_warps
    chunks = min(tiles, max(1, WARPS_WANTED // strands))
    chunk_tiles = math.ceil(tiles / chunks)
    chunks = math.ceil(tiles / chunk_tiles)
    warps = 8
    while warps > 1 and (warps > group_warps or strands * chunks < 96 * warps):
        warps //= 2
    piece_steps = TILE * chunk_tiles
    shortest = TILE if chunk_tiles > 1 else TILE // 2
    carry_strands = batch * ngroups * math.ceil(group_size / 32) * math.ceil(d_state / STATE_BLOCK)
    while piece_steps % (2 * shortest) == 0 and carry_strands * seqlen < CARRY_WARPS_WANTED * piece_steps:
        piece_steps //= 2
    return Plan(warps, channels, chunks, chunk_tiles, piece_steps)


@dataclass(frozen=True, slots=True)
class _Problem:
    """The arguments, in the forms that the kernels take."""

    x: Tensor
    dt: Tensor
    z: Tensor | None
    dy: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    reset: Tensor | None
    dfinal: Tensor | None
    checkpoints: Tensor
    softplus: bool
    ngroups: int

    @property
    def B_constant(self) -> bool:
        return self.B.dim() == 2

    @property
    def C_constant(self) -> bool:
        return self.C.dim() == 2

    @property
    def dt_constant(self) -> bool:
        return self.dt.dim() == 1

    @property
    def state(self) -> int:
        return self.A.shape[1]

    @property
    def tiles(self) -> int:
        return math.ceil(self.x.shape[1] / TILE)

    def rows(self) -> list[Tensor | None]:
        """The tensors laid out (batch, seqlen, d_inner), in the kernels' order; None for a constant dt or no gate."""
        return [self.x, None if self.dt_constant else self.dt, self.z, self.dy]


def scan_backward(
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
    plan: Plan | None = None,
) -> Gradients:
    """Compute every gradient of the selective scan from the states that the forward kept.

    Args:
        dy: gradient of y, as y: (batch, seqlen, d_inner). dfinal_state: of the final state, or None for zero.
        checkpoints: fp32 (batch, ceil(seqlen / 32), d_state, d_inner), contiguous: the state entering position 32 k, before that
            position's reset.
        plan: how to divide the work; by default as `plan_backward` says.

    The others are the forward's arguments. Gradients have their inputs' dtypes and are contiguous. The result is the same bit
    for bit from run to run: partial sums are added in a fixed order, and nothing is chosen by timing.
    """
    ngroups = math.lcm(*(values.shape[2] if values.dim() == 4 else 1 for values in (B, C)))
    problem = _Problem(
        x=x,
        dt=dt.contiguous() if dt.dim() == 1 else dt,
        z=z,
        dy=dy,
        A=A,
        B=_with_groups(B, ngroups),
        C=_with_groups(C, ngroups),
        D=None if D is None else D.float().contiguous(),
        dt_bias=None if dt_bias is None else dt_bias.float().contiguous(),
        reset=reset,
        dfinal=dfinal_state,
        checkpoints=checkpoints,
        softplus=dt_softplus,
        ngroups=ngroups,
    )
    batch, seqlen, d_inner = x.shape
    plan = plan or plan_backward(batch, seqlen, d_inner, A.shape[1], ngroups)
    with torch.cuda.device_of(x):
        return _run(problem, plan, _Originals(A, B, C, D, dt_bias, initial_state))


class _Originals(NamedTuple):
    """The parameters as they came: their gradients take dtype and shape from them."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None


def _with_groups(values: Tensor, ngroups: int) -> Tensor:
    """Return selective B or C with a dimension of exactly `ngroups` groups; constant ones as they are."""
    if values.dim() == 2:
        return values
    values = values if values.dim() == 4 else values[:, :, None]
    return values if values.shape[2] == ngroups else values.repeat_interleave(ngroups // values.shape[2], dim=2)


def _without_groups(gradient: Tensor, values: Tensor) -> Tensor:
    """Undo `_with_groups` for a gradient: sum over the groups that shared one row of the original."""
    if values.dim() == 2 or gradient.numel() == values.numel():
        return gradient.view(values.shape)
    shape = (*values.shape[:2], values.shape[2] if values.dim() == 4 else 1, -1, values.shape[-1])
    return gradient.view(shape).sum(3).view(values.shape).to(values.dtype)


class _Laid(NamedTuple):
    """A, B and C as `prepare_kernel` leaves them; a constant's matrix or None."""

    A: Tensor
    BC: Tensor
    B: Tensor | None
    C: Tensor | None


def _run(problem: _Problem, plan: Plan, originals: _Originals) -> Gradients:
    x = problem.x
    batch, _, d_inner = x.shape
    laid = _prepare(problem)
    carried = plan.chunks > 1 or problem.dfinal is not None
    carry = x.new_empty((batch, plan.chunks, problem.state, d_inner), dtype=torch.float32)
    if carried:
        _carry(problem, plan, laid, carry)
    partial = _main(problem, plan, laid, carry, carried)
    return _finish(problem, plan, originals, partial, carry)


def _prepare(problem: _Problem) -> _Laid:
    x, A, B, C = problem.x, problem.A, problem.B, problem.C
    batch, seqlen, d_inner = x.shape
    tiles, state = problem.tiles, problem.state
    selective = not (problem.B_constant and problem.C_constant)
    matrix = (state, d_inner)
    laid = _Laid(
        A=x.new_empty(matrix, dtype=torch.float32),
        BC=x.new_empty((batch, problem.ngroups, tiles, state, 2, TILE) if selective else (1,), dtype=torch.float32),
        B=x.new_empty(matrix, dtype=torch.float32) if problem.B_constant else None,
        C=x.new_empty(matrix, dtype=torch.float32) if problem.C_constant else None,
    )
    block = 32
    time_programs = batch * problem.ngroups * tiles if selective else 0
    grid = (time_programs + triton.cdiv(d_inner, block),)
    prepare_kernel[grid](
        A,
        B,
        C,
        laid.A,
        laid.B,
        laid.C,
        laid.BC,
        seqlen,
        tiles,
        time_programs,
        *A.stride(),
        *_four_strides(B),
        *_four_strides(C),
        D_INNER=d_inner,
        D_STATE=state,
        GROUPS=problem.ngroups,
        STATES=triton.next_power_of_2(state),
        BLOCK_D=block,
        num_warps=4 if state <= 32 else 8,
    )
    return laid


def _four_strides(values: Tensor) -> tuple[int, ...]:
    return values.stride() if values.dim() == 4 else (values.stride(0), 0, 0, values.stride(1))


def _three_strides(values: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if values is None else values.stride()


def _carry(problem: _Problem, plan: Plan, laid: _Laid, carry: Tensor) -> None:
    """Fill `carry` with the gradient that enters each chunk from the future."""
    x = problem.x
    batch, seqlen, d_inner = x.shape
    state, steps = problem.state, plan.piece_steps
    pieces = math.ceil(problem.tiles * TILE / steps)
    chunk_pieces = plan.chunk_tiles * TILE // steps
    local = x.new_empty((batch, pieces, state, d_inner) if plan.chunks > 1 else (1,), dtype=torch.float32)
    span = x.new_empty((batch, pieces, d_inner) if plan.chunks > 1 else (1,), dtype=torch.float32)
    if plan.chunks > 1:
        states, warps = min(triton.next_power_of_2(state), STATE_BLOCK), 1
        blocks = problem.ngroups * math.ceil(d_inner // problem.ngroups / (32 * warps)) * math.ceil(state / states)
        _, dt, z, dy = problem.rows()
        local_carry_kernel[(blocks * (pieces - chunk_pieces) * batch,)](
            problem.dt,
            z,
            dy,
            laid.A,
            laid.BC,
            laid.C,
            problem.dt_bias,
            problem.reset,
            local,
            span,
            seqlen,
            problem.tiles,
            pieces,
            chunk_pieces,
            steps,
            *_three_strides(dt),
            *_three_strides(z),
            *_three_strides(dy),
            *((0, 0) if problem.reset is None else problem.reset.stride()),
            D_INNER=d_inner,
            D_STATE=state,
            GROUPS=problem.ngroups,
            SOFTPLUS=problem.softplus,
            DT_CONSTANT=problem.dt_constant,
            STATES=states,
            WARPS=warps,
            num_warps=warps,
        )
    block = 64
    join_carries_kernel[(triton.cdiv(d_inner, block) * state * batch,)](
        local,
        span,
        laid.A,
        problem.dfinal,
        carry,
        plan.chunks,
        pieces,
        chunk_pieces,
        *_three_strides(problem.dfinal),
        D_INNER=d_inner,
        D_STATE=state,
        BLOCK_D=block,
        num_warps=2,
    )


class _Partial(NamedTuple):
    """What the main kernel wrote: finished gradients, and partial sums."""

    dx: Tensor
    ddt: Tensor | None
    dz: Tensor | None
    dA: Tensor
    dB: Tensor | None
    dC: Tensor | None
    dD: Tensor
    dbias: Tensor
    BC: Tensor


def _main(problem: _Problem, plan: Plan, laid: _Laid, carry: Tensor, carried: bool) -> _Partial:
    x = problem.x
    batch, seqlen, d_inner = x.shape
    state, tiles, places = problem.state, problem.tiles, batch * plan.chunks
    span = LANE_GROUPS * plan.warps * plan.channels
    group_size = d_inner // problem.ngroups
    blocks = problem.ngroups * math.ceil(group_size / span)
    programs = blocks * places
    pairs = plan.channels == 2 and group_size % 2 == 0 and all(_in_pairs(row) for row in problem.rows())
    adjacent = [row is None or row.stride(2) == 1 for row in problem.rows()]
    selective = not (problem.B_constant and problem.C_constant)
    masked = seqlen % TILE != 0 or group_size % span != 0
    sums = (places, state, d_inner)
    partial = _Partial(
        dx=torch.empty_like(x, memory_format=torch.contiguous_format),
        ddt=None if problem.dt_constant else torch.empty_like(problem.dt, memory_format=torch.contiguous_format),
        dz=None if problem.z is None else torch.empty_like(problem.z, memory_format=torch.contiguous_format),
        dA=x.new_empty(sums, dtype=torch.float32),
        dB=x.new_empty(sums, dtype=torch.float32) if problem.B_constant else None,
        dC=x.new_empty(sums, dtype=torch.float32) if problem.C_constant else None,
        dD=x.new_empty((places, d_inner), dtype=torch.float32),
        dbias=x.new_empty((places, d_inner), dtype=torch.float32),
        BC=x.new_empty((batch, blocks, tiles, 2, state, TILE) if selective else (1,), dtype=torch.float32),
    )
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
        x if scratch is None else scratch,
        seqlen,
        tiles,
        plan.chunks,
        plan.chunk_tiles,
        *(stride for row in problem.rows() for stride in _three_strides(row)),
        *((0, 0) if problem.reset is None else problem.reset.stride()),
        ROW_X=row_x,
        ROW_DT=row_dt,
        ROW_Z=row_z,
        ROW_DY=row_dy,
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
        num_warps=plan.warps,
    )
    return partial


def _in_pairs(row: Tensor | None) -> bool:
    """Whether two neighbouring channels of a (batch, seqlen, d_inner) tensor can be loaded as one word."""
    if row is None:
        return True
    word = 2 * row.element_size()
    return row.stride(2) == 1 and row.stride(1) % 2 == 0 and row.stride(0) % 2 == 0 and row.data_ptr() % word == 0


def _finish(problem: _Problem, plan: Plan, originals: _Originals, partial: _Partial, carry: Tensor) -> Gradients:
    x = problem.x
    batch, seqlen, d_inner = x.shape
    state, ngroups, tiles = problem.state, problem.ngroups, problem.tiles
    selective = not (problem.B_constant and problem.C_constant)

    def gradient(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.empty_like(values, memory_format=torch.contiguous_format)

    def gradient_with_groups(values: Tensor, original: Tensor) -> Tensor:
        shared = original.dim() != 2 and values.shape[2] != (original.shape[2] if original.dim() == 4 else 1)
        return torch.empty(values.shape, dtype=torch.float32 if shared else values.dtype, device=values.device)

    dA, dD, dbias, dinitial = (gradient(t) for t in (originals.A, originals.D, originals.dt_bias, originals.initial_state))
    dB = gradient_with_groups(problem.B, originals.B)
    dC = gradient_with_groups(problem.C, originals.C)
    ddt = torch.empty_like(problem.dt) if partial.ddt is None else partial.ddt
    block = 32
    time_programs = batch * ngroups * tiles if selective else 0
    matrix_programs = state * triton.cdiv(d_inner, block)
    vector_programs = triton.cdiv(d_inner, block)
    initial_programs = batch * triton.cdiv(d_inner, block) if dinitial is not None else 0
    finish_kernel[(time_programs + matrix_programs + vector_programs + initial_programs,)](
        partial.BC,
        partial.dA,
        partial.dB,
        partial.dC,
        partial.dD,
        partial.dbias,
        carry,
        dA,
        dB,
        dC,
        dD,
        dbias,
        ddt if problem.dt_constant else None,
        dinitial,
        batch,
        seqlen,
        tiles,
        plan.chunks,
        time_programs,
        matrix_programs,
        vector_programs,
        D_INNER=d_inner,
        D_STATE=state,
        GROUPS=ngroups,
        PARTS=partial.BC.shape[1] // ngroups if selective else 1,
        STATES=triton.next_power_of_2(state),
        BLOCK_D=block,
        ROWS=32,
        num_warps=4,
    )
    assert dA is not None
    return Gradients(
        x=partial.dx,
        dt=ddt,
        A=dA,
        B=_without_groups(dB, originals.B),
        C=_without_groups(dC, originals.C),
        D=dD,
        z=partial.dz,
        dt_bias=dbias,
        initial_state=dinitial,
    )
