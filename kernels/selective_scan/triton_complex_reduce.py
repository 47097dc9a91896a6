"""The small Triton kernels around the backward scan with complex A: what leaves the parts of a split sequence, and the last sums."""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, silu, softplus
from kernels.selective_scan.triton_complex import STEPS, decay, in_all_positions, quads_of, state_quads
from kernels.selective_scan.triton_lanes import store_quad


@triton.jit(
    do_not_specialize=["seqlen", "parts", "part_tiles", "rows", "dt_batch", "dt_time", "z_batch", "z_time", "dy_batch", "dy_time"]
)  # fmt: skip
def complex_carry_kernel(
    dt_ptr,
    z_ptr,
    dy_ptr,
    rates_ptr,
    packed_ptr,
    constants_ptr,
    bias_ptr,
    reset_ptr,
    ends_ptr,
    seqlen,
    parts,
    part_tiles,
    rows,
    dt_batch,
    dt_time,
    z_batch,
    z_time,
    dy_batch,
    dy_time,
    D_INNER: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    B_CONSTANT: tl.constexpr,
    C_CONSTANT: tl.constexpr,
    R: tl.constexpr,
    WARPS: tl.constexpr,
):
    """The gradient that leaves each part of the sequence towards the past when none enters it, and the part's decay.

    Program ids as in `complex_backward_kernel`; ends as `join_kernel` takes it.
    """
    GROUP_SIZE: tl.constexpr = D_INNER // GROUPS
    BLOCKS: tl.constexpr = (GROUP_SIZE + 4 * WARPS - 1) // (4 * WARPS)
    STATE_BLOCKS: tl.constexpr = PADDED // (8 * R)
    block = tl.program_id(0) // STATE_BLOCKS
    part = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    thread = tl.arange(0, 32 * WARPS)
    share = thread & 7
    local = block % BLOCKS * (4 * WARPS) + (thread >> 3)
    group = block // BLOCKS
    inside = local < GROUP_SIZE
    d = group * GROUP_SIZE + tl.minimum(local, GROUP_SIZE - 1)
    n = tl.program_id(0) % STATE_BLOCKS * (8 * R) + share * R
    zero = tl.zeros((32 * WARPS,), tl.float32)
    here = (d * PADDED + n) * 4
    rates = state_quads(rates_ptr + here, R)
    constants = ()
    if B_CONSTANT or C_CONSTANT:
        constants = state_quads(constants_ptr + here, R)
    bias = zero
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + d)
    dy_lane = dy_ptr + b * dy_batch + d
    dt_lane = dt_ptr + d
    z_lane = dy_lane
    if not DT_CONSTANT:
        dt_lane += b * dt_batch
    if z_ptr is not None:
        z_lane = z_ptr + b * z_batch + d
    packed = packed_ptr + (b * GROUPS + group) * rows * (PADDED * 4) + n * 4
    g = ()
    p = ()
    for _r in tl.static_range(R):
        g = g + (zero, zero)
        p = p + (zero + 1.0, zero)
    first = part.to(tl.int64) * part_tiles * 32
    last = tl.minimum(first + part_tiles * 32, tl.cdiv(seqlen, 32) * 32)
    for k in range(((last - first) // STEPS).to(tl.int32)):
        t0 = last - STEPS - k * STEPS
        t = t0 + share
        mask = inside & (t < seqlen)
        dy = tl.load(dy_lane + t * dy_time, mask=mask, other=0.0).to(tl.float32)
        if z_ptr is not None:
            dy = dy * silu(tl.load(z_lane + t * z_time, mask=mask, other=0.0).to(tl.float32))
        if DT_CONSTANT:
            step = tl.load(dt_lane, mask=inside, other=0.0).to(tl.float32) + bias
        else:
            step = tl.load(dt_lane + t * dt_time, mask=mask, other=0.0).to(tl.float32) + bias
        if SOFTPLUS:
            step = softplus(step)
        steps = in_all_positions(tl.where(mask, step, 0.0))
        dys = in_all_positions(dy)
        cut = ()
        if reset_ptr is not None:
            flag = tl.load(reset_ptr + b * seqlen + t, mask=t < seqlen, other=0)
            cut = in_all_positions(tl.where(flag != 0, 1.0, 0.0))
        row = packed + t0 * (PADDED * 4)
        for back in tl.static_range(STEPS):
            quads = quads_of(row + (STEPS - 1 - back) * (PADDED * 4), constants, B_CONSTANT, C_CONSTANT, R)
            step = steps[STEPS - 1 - back]
            scaled = step * LOG2E
            g_on = ()
            p_on = ()
            for r in tl.static_range(R):
                a_re, a_im = decay(step, scaled, rates[r])
                if reset_ptr is not None:
                    a_re = tl.where(cut[STEPS - 1 - back] != 0.0, 0.0, a_re)
                    a_im = tl.where(cut[STEPS - 1 - back] != 0.0, 0.0, a_im)
                re = g[2 * r] + dys[STEPS - 1 - back] * quads[r][2]
                im = g[2 * r + 1] - dys[STEPS - 1 - back] * quads[r][3]
                g_on = g_on + (a_re * re + a_im * im, a_re * im - a_im * re)
                p_on = p_on + (
                    a_re * p[2 * r] - a_im * p[2 * r + 1],
                    a_re * p[2 * r + 1] + a_im * p[2 * r],
                )
            g = g_on
            p = p_on
    for r in tl.static_range(R):
        end = ends_ptr + (((b * parts + part) * D_INNER + d) * PADDED + n + r) * 4
        store_quad(end, (g[2 * r], g[2 * r + 1], p[2 * r], p[2 * r + 1]), inside)


@triton.jit(do_not_specialize=["seqlen", "blocks"])
def complex_finish_kernel(
    part_ptr,
    dB_ptr,
    dC_ptr,
    seqlen,
    blocks,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    STATE_BLOCKS: tl.constexpr,
    B_CONSTANT: tl.constexpr,
    C_CONSTANT: tl.constexpr,
    R: tl.constexpr,
):
    """Add the programs' sums in the order of the blocks: dB and dC as fp32 pairs, (batch, seqlen, groups, D_STATE, 2).

    Program ids: (block of 8 positions, group * blocks of states + block of states, batch). part is (batch, groups, blocks, blocks
    of states, blocks of 8 positions, R, half, lane, 4): a lane is 16 * (imaginary) + 8 * (C) + share, the four are positions.
    """
    eighth = tl.program_id(0)
    group = tl.program_id(1) // STATE_BLOCKS
    state_block = tl.program_id(1) % STATE_BLOCKS
    b = tl.program_id(2).to(tl.int64)
    eighths = tl.num_programs(0)
    at = tl.arange(0, 256 * R)
    total = tl.zeros((256 * R,), tl.float32)
    for i in range(blocks):
        place = ((b * GROUPS + group) * blocks + i) * STATE_BLOCKS + state_block
        total += tl.load(part_ptr + (place * eighths + eighth) * (256 * R) + at)
    lane = (at >> 2) & 31
    t = eighth.to(tl.int64) * 8 + ((at >> 7) & 1) * 4 + (at & 3)
    n = state_block * (8 * R) + (lane & 7) * R + (at >> 8)
    imaginary = lane >> 4
    of_C = (lane & 8) != 0
    target = ((b * seqlen + t) * GROUPS + group) * (2 * D_STATE) + 2 * n + imaginary
    here = (t < seqlen) & (n < D_STATE)
    if not B_CONSTANT:
        tl.store(dB_ptr + target, total, mask=here & (of_C == 0))
    if not C_CONSTANT:  # the states stood for their conjugates too
        tl.store(dC_ptr + target, tl.where(imaginary == 1, -2.0, 2.0) * total, mask=here & of_C)
