"""Host side of the Triton backward scan: how the work is divided, what memory it takes, and which kernels run in which order."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.selective_scan.triton_bwd_main import Laid, Partial, goes_over, run_main
from kernels.selective_scan.triton_bwd_plan import (
    STATE_BLOCK,
    TILE,
    Plan,
    Problem,
    four_strides,
    plan_backward,
    three_strides,
    with_groups,
    without_groups,
)
from kernels.selective_scan.triton_bwd_reduce import (
    finish_kernel,
    join_carries_kernel,
    local_carry_kernel,
    prepare_kernel,
)
from kernels.selective_scan.triton_bwd_short import finish_short_kernel


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
    spend: bool = False,
) -> Gradients:
    """Compute every gradient of the selective scan from the states that the forward kept.

    Args:
        dy: gradient of y, as y: (batch, seqlen, d_inner). dfinal_state: of the final state, or None for zero.
        checkpoints: fp32 (batch, ceil(seqlen / 32), d_state, d_inner) or in halves (triton_checkpoints), contiguous: the state
            entering position 32 k, before that position's reset.
        plan: how to divide the work; by default as `plan_backward` says.
        spend: whether gradients and partial sums may be written over `checkpoints`, which then serve no second backward.

    The others are the forward's arguments. Gradients have their inputs' dtypes and are contiguous, but for those of x, dt and z where
    they lie over `checkpoints` in halves. The result is the same bit
    for bit from run to run: partial sums are added in a fixed order, and nothing is chosen by timing.
    """
    ngroups = _groups_of(B, C)
    problem = Problem(
        x=x,
        dt=dt.contiguous() if dt.dim() == 1 else dt,
        z=z,
        dy=dy,
        A=A,
        B=with_groups(B, ngroups),
        C=with_groups(C, ngroups),
        D=None if D is None else D.float().contiguous(),
        dt_bias=None if dt_bias is None else dt_bias.float().contiguous(),
        reset=reset,
        dfinal=dfinal_state,
        checkpoints=checkpoints,
        softplus=dt_softplus,
        ngroups=ngroups,
        initial=initial_state is not None,
        spend=spend,
    )
    batch, seqlen, d_inner = x.shape
    plan = plan or plan_backward(batch, seqlen, d_inner, A.shape[1], ngroups)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        return _run(problem, plan, _Originals(A, B, C, D, dt_bias, initial_state))


def spends_rows(x: Tensor, A: Tensor, B: Tensor, C: Tensor, checkpoints: Tensor) -> bool:
    """Whether a backward that may spend `checkpoints` lays the gradients of x, dt and z over them."""
    batch, seqlen, d_inner = x.shape
    return goes_over(checkpoints, plan_backward(batch, seqlen, d_inner, A.shape[1], _groups_of(B, C)))


def _groups_of(B: Tensor, C: Tensor) -> int:
    return math.lcm(*(values.shape[2] if values.dim() == 4 else 1 for values in (B, C)))


class _Originals(NamedTuple):
    """The parameters as they came: their gradients take dtype and shape from them."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None


def _run(problem: Problem, plan: Plan, originals: _Originals) -> Gradients:
    x = problem.x
    batch, _, d_inner = x.shape
    laid = _prepare(problem)
    carried = plan.chunks > 1 or problem.dfinal is not None
    carry = x.new_empty((batch, plan.chunks, problem.state, d_inner), dtype=torch.float32)
    if carried:
        _carry(problem, plan, laid, carry)
    partial = run_main(problem, plan, laid, carry, carried)
    del laid  # its memory serves what `_finish` makes
    return _finish(problem, plan, originals, partial, carry)


def _prepare(problem: Problem) -> Laid:
    x, A, B, C = problem.x, problem.A, problem.B, problem.C
    batch, seqlen, d_inner = x.shape
    tiles, state = problem.tiles, problem.state
    selective = not (problem.B_constant and problem.C_constant)
    matrix = (state, d_inner)
    laid = Laid(
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
        *four_strides(B),
        *four_strides(C),
        D_INNER=d_inner,
        D_STATE=state,
        GROUPS=problem.ngroups,
        STATES=triton.next_power_of_2(state),
        BLOCK_D=block,
        num_warps=4 if state <= 32 else 8,
    )
    return laid


def _carry(problem: Problem, plan: Plan, laid: Laid, carry: Tensor) -> None:
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
            *three_strides(dt),
            *three_strides(z),
            *three_strides(dy),
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
        *three_strides(problem.dfinal),
        D_INNER=d_inner,
        D_STATE=state,
        BLOCK_D=block,
        num_warps=2,
    )


def _finish(problem: Problem, plan: Plan, originals: _Originals, partial: Partial, carry: Tensor) -> Gradients:
    x = problem.x
    batch, seqlen, d_inner = x.shape
    state, ngroups, tiles = problem.state, problem.ngroups, problem.tiles
    short = partial.scales is not None
    selective = not (problem.B_constant and problem.C_constant) and not short

    def gradient(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.empty_like(values, memory_format=torch.contiguous_format)

    def gradient_with_groups(values: Tensor, original: Tensor) -> Tensor:
        shared = original.dim() != 2 and values.shape[2] != (original.shape[2] if original.dim() == 4 else 1)
        return torch.empty(values.shape, dtype=torch.float32 if shared else values.dtype, device=values.device)

    dA, dD, dbias, dinitial = (
        gradient(t) for t in (originals.A, originals.D, originals.dt_bias, originals.initial_state)
    )
    dB = gradient_with_groups(problem.B, originals.B)
    dC = gradient_with_groups(problem.C, originals.C)
    ddt = torch.empty_like(problem.dt) if partial.ddt is None else partial.ddt
    block = 32
    time_programs = batch * ngroups * tiles if selective else 0
    matrix_programs = state * triton.cdiv(d_inner, block)
    vector_programs = triton.cdiv(d_inner, block)
    initial_programs = batch * triton.cdiv(d_inner, block) if dinitial is not None else 0
    if short:
        finish_short_kernel[(batch * ngroups * tiles,)](
            partial.BC,
            partial.scales,
            dB,
            dC,
            partial.BC_width,
            seqlen,
            tiles,
            D_STATE=state,
            GROUPS=ngroups,
            PARTS=partial.blocks // ngroups,
            STATES=triton.next_power_of_2(state),
            num_warps=4,
        )
    finish_kernel[(time_programs + matrix_programs + vector_programs + initial_programs,)](
        partial.scales if short else partial.BC,
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
        partial.BC_width,
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
        PARTS=partial.blocks // ngroups,
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
        B=without_groups(dB, originals.B),
        C=without_groups(dC, originals.C),
        D=dD,
        z=partial.dz,
        dt_bias=dbias,
        initial_state=dinitial,
    )
