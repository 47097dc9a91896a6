"""Host side of the scan with complex A: how the work is divided, what memory it takes, and the launches of the forward."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.common.choice import Layout, record_layout
from kernels.common.numerics import softplus
from kernels.selective_scan.reference import finish
from kernels.selective_scan.triton_arguments import Arguments
from kernels.selective_scan.triton_complex import join_kernel, lay_kernel
from kernels.selective_scan.triton_complex_fwd import complex_forward_kernel

TILE = 32
"""Positions between two checkpoints."""

WARPS_WANTED = 1024
"""Warps below which a sequence is split: eight on each multiprocessor of a large GPU."""

PART_TILES = 4
"""Tiles that a part has at least: shorter ones are not worth the pass over their ends."""


@dataclass(frozen=True, slots=True)
class ComplexPlan:
    """How one scan with complex A is divided. It depends on shapes alone, so equal shapes give equal bits."""

    states: int
    """States of a lane, eight of which share a channel: 1 or 2."""
    warps: int
    """Warps of a program, four channels each."""
    parts: int
    part_tiles: int
    """Programs along the sequence, and tiles of 32 positions of each."""


def plan_complex(batch: int, seqlen: int, d_inner: int, d_state: int, ngroups: int) -> ComplexPlan:
    """Choose the division: the sequence is split where there are too few channels to fill the GPU, and it pays."""
    states = 1 if d_state <= 8 else 2
    group_size = d_inner // ngroups
    warps = 8
    while warps > 1 and 4 * warps >= 2 * group_size:
        warps //= 2
    strands = batch * ngroups * math.ceil(group_size / 4) * math.ceil(d_state / (8 * states))
    tiles = math.ceil(seqlen / TILE)
    parts = min(WARPS_WANTED // strands, tiles // PART_TILES)
    part_tiles = math.ceil(tiles / parts) if parts >= 3 else tiles  # two passes over two parts win nothing
    return ComplexPlan(states, warps, math.ceil(tiles / part_tiles), part_tiles)


class Laid(NamedTuple):
    """A, B and C as `lay_kernel` leaves them, and how many positions the rows of B and C are padded to."""

    rates: Tensor
    packed: Tensor
    constants: Tensor
    rows: int
    padded: int


def complex_forward(
    given: Arguments, *, save: bool, plan: ComplexPlan | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the forward scan: y, the complex final state and, if `save`, the checkpoints that the backward restarts from.

    A, B, C and initial_state are complex64. Checkpoints: fp32 (batch, ceil(seqlen / 32), d_inner, padded states, 2), the state
    that enters position 32 k, before that position's reset.
    """
    given = with_steps(given)
    x = given.x
    batch, seqlen, d_inner = x.shape
    d_state = given.A.shape[1]
    plan = plan or plan_complex(batch, seqlen, d_inner, d_state, given.ngroups)
    record_layout("selective_scan", f"{batch}x{d_inner}x{seqlen}x{d_state} complex", partial(_describe, plan))
    padded = padded_states(d_state)
    blocks = padded // (8 * plan.states)
    final_state = x.new_empty(batch, d_inner, d_state, dtype=torch.complex64)
    checkpoints = None
    if save:
        checkpoints = x.new_empty(batch, math.ceil(seqlen / TILE), d_inner, padded, 2, dtype=torch.float32)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sums = y if blocks == 1 else x.new_empty(blocks, *x.shape, dtype=torch.float32)
    with on_device(x):
        laid = lay(given, plan)
        ends = None
        if plan.parts > 1:
            ends = x.new_empty(batch, plan.parts, d_inner, padded, 4, dtype=torch.float32)
            _scan(given, plan, laid, 1, (None, None, None, ends))
            join(ends, given.initial_state, d_state, backward=False)
        _scan(given, plan, laid, 0 if ends is None else 2, (sums, final_state, checkpoints, ends))
    if blocks > 1:
        y.copy_(finish(sums.sum(0), x.float(), given.D, given.z))
    return y, final_state, checkpoints


def with_steps(given: Arguments) -> Arguments:
    """Return the arguments with a constant dt as the recurrence uses it, after bias and softplus, both left out then.

    An error of the kernel's softplus would be the same at every step, and add up.
    """
    if given.dt.dim() == 3:
        return given
    step = given.dt if given.dt_bias is None else given.dt + given.dt_bias
    return replace(given, dt=softplus(step) if given.dt_softplus else step, dt_bias=None, dt_softplus=False)


def padded_states(d_state: int) -> int:
    """States as the kernels count them: whole blocks of those that eight lanes hold."""
    return 8 if d_state <= 8 else 16 * math.ceil(d_state / 16)


def _describe(plan: ComplexPlan) -> Layout:
    return {"lanes": "complex", **asdict(plan)}


def on_device(x: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def floats(values: Tensor | None) -> Tensor | None:
    return None if values is None else torch.view_as_real(values)


def lay(given: Arguments, plan: ComplexPlan) -> Laid:
    x = given.x
    batch, seqlen, d_inner = x.shape
    d_state = given.A.shape[1]
    padded = padded_states(d_state)
    rows = math.ceil(seqlen / TILE) * TILE + 8  # one block more: it is prefetched
    B_constant, C_constant = given.B.dim() == 2, given.C.dim() == 2
    selective = not (B_constant and C_constant)
    matrix = (d_inner, padded, 4)
    laid = Laid(
        rates=x.new_empty(matrix, dtype=torch.float32),
        packed=x.new_empty((batch, given.ngroups, rows, padded, 4) if selective else (1,), dtype=torch.float32),
        constants=x.new_empty(matrix if B_constant or C_constant else (1,), dtype=torch.float32),
        rows=rows,
        padded=padded,
    )
    block = max(1, 512 // triton.next_power_of_2(padded))
    time_programs = batch * given.ngroups * math.ceil(rows / block) if selective else 0
    A, B, C = (torch.view_as_real(values) for values in (given.A, given.B, given.C))
    lay_kernel[(time_programs + math.ceil(d_inner / block),)](
        A,
        B,
        C,
        *laid[:3],
        seqlen,
        rows,
        time_programs,
        *A.stride()[:2],
        *_strides(B),
        *_strides(C),
        D_INNER=d_inner,
        D_STATE=d_state,
        PADDED=padded,
        WIDTH=triton.next_power_of_2(padded),
        GROUPS=given.ngroups,
        B_CONSTANT=B_constant,
        C_CONSTANT=C_constant,
        BLOCK=block,
        num_warps=4,
    )
    return laid


def _strides(values: Tensor) -> tuple[int, ...]:
    """Strides in fp32 of a B or C that is seen as pairs: batch (channel, if constant), time, group, state."""
    first, *middle, last, _ = values.stride()
    return first, *middle, *(0,) * (2 - len(middle)), last


def row_strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Strides over batch and time of (batch, seqlen, d_inner) tensors; zeros where there is none, or no time."""
    return tuple(
        stride
        for values in tensors
        for stride in ((0, 0) if values is None or values.dim() == 1 else values.stride()[:2])
    )


def options(given: Arguments, plan: ComplexPlan, laid: Laid) -> dict[str, int | bool]:
    return {
        "D_INNER": given.x.shape[2],
        "PADDED": laid.padded,
        "GROUPS": given.ngroups,
        "SOFTPLUS": given.dt_softplus,
        "DT_CONSTANT": given.dt.dim() == 1,
        "B_CONSTANT": given.B.dim() == 2,
        "C_CONSTANT": given.C.dim() == 2,
        "R": plan.states,
        "WARPS": plan.warps,
        "num_warps": plan.warps,
    }


def columns(given: Arguments, plan: ComplexPlan, laid: Laid) -> int:
    """Programs side by side: blocks of channels times blocks of states."""
    group_size = given.x.shape[2] // given.ngroups
    return given.ngroups * math.ceil(group_size / (4 * plan.warps)) * (laid.padded // (8 * plan.states))


def _scan(given: Arguments, plan: ComplexPlan, laid: Laid, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
    """Launch the forward kernel; `buffers` are y, final state, checkpoints, and what leaves and enters the parts."""
    x = given.x
    y, final_state, checkpoints, ends = buffers
    complex_forward_kernel[(columns(given, plan, laid), x.shape[0], plan.parts)](
        x,
        given.dt,
        given.z,
        *laid[:3],
        given.D,
        given.dt_bias,
        given.reset,
        floats(given.initial_state),
        x if y is None else y,
        floats(final_state),
        checkpoints,
        laid.rates if ends is None else ends,
        x.shape[1],
        plan.part_tiles * TILE,
        laid.rows,
        *row_strides(x, given.dt, given.z),
        D_STATE=given.A.shape[1],
        PHASE=phase,
        **options(given, plan, laid),
    )


def join(ends: Tensor, entry: Tensor | None, d_state: int, *, backward: bool) -> None:
    batch, parts, d_inner, padded, _ = ends.shape
    pairs = floats(entry)
    block = 128
    join_kernel[(math.ceil(d_inner * padded / block), batch)](
        ends,
        pairs,
        parts,
        *((0, 0, 0) if pairs is None else pairs.stride()[:3]),
        D_INNER=d_inner,
        D_STATE=d_state,
        PADDED=padded,
        BACKWARD=backward,
        BLOCK=block,
        num_warps=4,
    )
