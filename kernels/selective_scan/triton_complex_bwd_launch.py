"""Host side of the backward scan with complex A: the memory it takes, and the launches."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.selective_scan.reference import step_sizes
from kernels.selective_scan.triton_arguments import Arguments
from kernels.selective_scan.triton_bwd_launch import Gradients
from kernels.selective_scan.triton_bwd_plan import without_groups
from kernels.selective_scan.triton_common import INTERPRETED
from kernels.selective_scan.triton_complex_bwd import complex_backward_kernel
from kernels.selective_scan.triton_complex_launch import (
    TILE,
    ComplexPlan,
    Laid,
    columns,
    floats,
    join,
    lay,
    on_device,
    options,
    plan_complex,
    row_strides,
    with_steps,
)
from kernels.selective_scan.triton_complex_reduce import complex_carry_kernel, complex_finish_kernel


def complex_backward(
    given: Arguments,
    dy: Tensor,
    dfinal_state: Tensor | None,
    checkpoints: Tensor,
    plan: ComplexPlan | None = None,
) -> Gradients:
    """Compute every gradient of `complex_forward` from the states that it kept; the same bits from run to run.

    The gradient of something complex is that of its real part plus i times that of its imaginary part, as PyTorch has it.
    """
    original, given = given, with_steps(given)
    x = given.x
    batch, seqlen, d_inner = x.shape
    plan = plan or plan_complex(batch, seqlen, d_inner, given.A.shape[1], given.ngroups)
    with on_device(x):
        laid = lay(given, plan)
        carry = _carry(given, plan, laid, dy, dfinal_state)
        found = _main(given, plan, laid, dy, carry, checkpoints)
        rows = _finished_rows(given, found, dy) if found.sums is not None else _Rows(*found[:5])
        dB, dC = _state_inputs(given, plan, laid, found)
    d_state = given.A.shape[1]
    ddt, dbias = rows.ddt, rows.dbias
    if original.dt.dim() == 1:
        if original.dt_softplus:
            ddt = ddt * torch.sigmoid(original.dt if original.dt_bias is None else original.dt + original.dt_bias)
        dbias = ddt[None]
    return Gradients(
        x=rows.dx,
        dt=ddt,
        A=torch.view_as_complex(found.dA.sum(0)[:, :d_state].contiguous()),
        B=dB,
        C=dC,
        D=None if given.D is None else rows.dD.sum(0),
        z=rows.dz,
        dt_bias=None if original.dt_bias is None else dbias.sum(0),
        initial_state=found.dinitial,
    )


class _Found(NamedTuple):
    """What the main kernel wrote: finished gradients and the parts' sums; in blocks of states `sums` in place of the first five."""

    dx: Tensor
    ddt: Tensor
    dz: Tensor | None
    dD: Tensor
    dbias: Tensor
    sums: Tensor | None
    dA: Tensor
    dconstants: Tensor | None
    dinitial: Tensor | None
    parts: Tensor


class _Rows(NamedTuple):
    """Gradients of the shape of x, those of constants still to be summed over their first dimension."""

    dx: Tensor
    ddt: Tensor
    dz: Tensor | None
    dD: Tensor
    dbias: Tensor


def _carry(given: Arguments, plan: ComplexPlan, laid: Laid, dy: Tensor, dfinal_state: Tensor | None) -> Tensor | None:
    """Return the gradient that enters each part from the future, (batch, parts, d_inner, padded, 4), or None for zeros."""
    if plan.parts == 1 and dfinal_state is None:
        return None
    x = given.x
    batch, seqlen, d_inner = x.shape
    ends = x.new_empty(batch, plan.parts, d_inner, laid.padded, 4, dtype=torch.float32)
    if plan.parts > 1:
        complex_carry_kernel[(columns(given, plan, laid), plan.parts, batch)](
            given.dt,
            given.z,
            dy,
            *laid[:3],
            given.dt_bias,
            given.reset,
            ends,
            seqlen,
            plan.parts,
            plan.part_tiles,
            laid.rows,
            *row_strides(given.dt, given.z, dy),
            **options(given, plan, laid),
        )
    else:
        ends.zero_()  # nothing comes after the one part but the gradient of the final state
    join(ends, dfinal_state, given.A.shape[1], backward=True)
    return ends


def _main(
    given: Arguments, plan: ComplexPlan, laid: Laid, dy: Tensor, carry: Tensor | None, checkpoints: Tensor
) -> _Found:
    x, dt, z = given.x, given.dt, given.z
    batch, seqlen, d_inner = x.shape
    blocks = laid.padded // (8 * plan.states)
    side = columns(given, plan, laid)
    places = batch * plan.parts
    constant = given.B.dim() == 2 or given.C.dim() == 2
    selective = not (given.B.dim() == 2 and given.C.dim() == 2)
    fours = 4 * math.ceil(seqlen / TILE)

    def fp32(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    found = _Found(
        dx=torch.empty_like(x, memory_format=torch.contiguous_format),
        ddt=fp32(*x.shape) if dt.dim() == 1 else torch.empty_like(dt, memory_format=torch.contiguous_format),
        dz=None if z is None else torch.empty_like(z, memory_format=torch.contiguous_format),
        dD=fp32(places, d_inner),
        dbias=fp32(places, d_inner),
        sums=None if blocks == 1 else fp32(3, blocks, *x.shape),
        dA=fp32(places, d_inner, laid.padded, 2),
        dconstants=fp32(places, d_inner, laid.padded, 4) if constant else None,
        dinitial=None if given.initial_state is None else torch.empty_like(given.initial_state),
        parts=fp32(batch, side, fours, 256 * plan.states) if selective else fp32(1),
    )
    scratch = fp32(side * places, plan.warps * 512 * plan.states) if INTERPRETED and selective else found.parts
    complex_backward_kernel[(side, plan.parts, batch)](
        x,
        dt,
        z,
        dy,
        *laid[:3],
        given.D,
        given.dt_bias,
        given.reset,
        checkpoints,
        carry,
        found.dx,
        found.ddt,
        found.dz,
        found.sums,
        found.dA,
        found.dconstants,
        found.dD,
        found.dbias,
        floats(found.dinitial),
        found.parts,
        scratch,
        seqlen,
        plan.parts,
        plan.part_tiles,
        laid.rows,
        *row_strides(x, dt, z, dy),
        D_STATE=given.A.shape[1],
        **options(given, plan, laid),
    )
    if dt.dim() == 1 and blocks == 1:
        return found._replace(ddt=found.dbias.sum(0))
    return found


def _finished_rows(given: Arguments, found: _Found, dy: Tensor) -> _Rows:
    """What the kernel does itself where one program has all states of a channel."""
    x, dt, D, z, bias = given.x, given.dt, given.D, given.z, given.dt_bias
    assert found.sums is not None
    Bg, Aw, y = found.sums.sum(1)
    fine = x.float()
    raw = dt.float() if bias is None else dt.float() + bias
    gated = dy.float() if z is None else dy.float() * F.silu(z.float())
    ddt = fine * Bg + Aw
    if given.dt_softplus:
        ddt = ddt * torch.sigmoid(raw)
    dx = step_sizes(x, dt, bias, given.dt_softplus) * Bg
    dz = None
    if D is not None:
        dx = dx + D * gated
    if z is not None:
        y = y if D is None else y + D * fine
        gate = torch.sigmoid(z.float())
        dz = (dy * y * gate * (1 + z * (1 - gate))).to(z.dtype)
    dD, dbias = (fine * gated).sum(0), ddt.sum(0)
    ddt = dbias.sum(0) if dt.dim() == 1 else ddt.to(dt.dtype)
    return _Rows(dx.to(x.dtype), ddt, dz, dD, dbias)


def _state_inputs(given: Arguments, plan: ComplexPlan, laid: Laid, found: _Found) -> tuple[Tensor, Tensor]:
    """Return dB and dC, of the shapes of B and C."""
    x, B, C = given.x, given.B, given.C
    batch, seqlen, _ = x.shape
    d_state = given.A.shape[1]
    shape = (batch, seqlen, given.ngroups, d_state)
    B_constant, C_constant = B.dim() == 2, C.dim() == 2
    dB, dC = (x.new_empty(shape if selective.dim() > 2 else (1,), dtype=torch.complex64) for selective in (B, C))
    if not (B_constant and C_constant):
        blocks = laid.padded // (8 * plan.states)
        complex_finish_kernel[(math.ceil(seqlen / TILE) * 4, given.ngroups * blocks, batch)](
            found.parts,
            floats(dB),
            floats(dC),
            seqlen,
            found.parts.shape[1] // (given.ngroups * blocks),
            D_STATE=d_state,
            GROUPS=given.ngroups,
            STATE_BLOCKS=blocks,
            B_CONSTANT=B_constant,
            C_CONSTANT=C_constant,
            R=plan.states,
            num_warps=4,
        )
    if found.dconstants is not None:
        sums = found.dconstants.sum(0)[:, :d_state]
        if B_constant:
            dB = torch.view_as_complex(sums[..., :2].contiguous())
        if C_constant:
            dC = 2 * torch.view_as_complex(sums[..., 2:].contiguous()).conj().resolve_conj()
    return without_groups(dB, B), without_groups(dC, C)
