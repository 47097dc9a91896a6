"""The Triton kernel of the forward scan with complex A. Layout and helpers: `triton_complex`; derivation: README.md.

Program ids are (block of channels * blocks of states + block of states, batch, part of the sequence).
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, prefetch_l1, silu, softplus
from kernels.selective_scan.triton_complex import (
    STEPS,
    decay,
    in_all_positions,
    load_states,
    own_position,
    quads_of,
    state_quads,
    store_states,
)
from kernels.selective_scan.triton_lanes import store_quad


@triton.jit(
    do_not_specialize=["seqlen", "part_len", "rows", "x_batch", "x_time", "dt_batch", "dt_time", "z_batch", "z_time"]
)
def complex_forward_kernel(
    x_ptr,
    dt_ptr,
    z_ptr,
    rates_ptr,
    packed_ptr,
    constants_ptr,
    D_ptr,
    bias_ptr,
    reset_ptr,
    initial_ptr,
    y_ptr,
    final_ptr,
    checkpoint_ptr,
    ends_ptr,
    seqlen,
    part_len,
    rows,
    x_batch,
    x_time,
    dt_batch,
    dt_time,
    z_batch,
    z_time,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    B_CONSTANT: tl.constexpr,
    C_CONSTANT: tl.constexpr,
    PHASE: tl.constexpr,
    R: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Scan a whole sequence (PHASE 0), or a part of it: only its end from zero and its decay (1), or from what enters it (2).

    With more than one block of states y is fp32 (blocks, batch, seqlen, d_inner) and holds each block's sums alone.
    """
    GROUP_SIZE: tl.constexpr = D_INNER // GROUPS
    BLOCKS: tl.constexpr = (GROUP_SIZE + 4 * WARPS - 1) // (4 * WARPS)
    STATE_BLOCKS: tl.constexpr = PADDED // (8 * R)
    FINISH: tl.constexpr = STATE_BLOCKS == 1
    SECTORS: tl.constexpr = STEPS * PADDED * 4 // 8
    block = tl.program_id(0) // STATE_BLOCKS
    b = tl.program_id(1).to(tl.int64)
    thread = tl.arange(0, 32 * WARPS)
    share = thread & 7
    local = block % BLOCKS * (4 * WARPS) + (thread >> 3)
    group = block // BLOCKS
    inside = local < GROUP_SIZE
    d = group * GROUP_SIZE + tl.minimum(local, GROUP_SIZE - 1)
    first = tl.program_id(0) % STATE_BLOCKS * (8 * R)
    n = first + share * R
    start = tl.program_id(2).to(tl.int64) * part_len
    length = tl.minimum(part_len, seqlen - start).to(tl.int32)
    zero = tl.zeros((32 * WARPS,), tl.float32)
    here = (d * PADDED + n) * 4
    rates = state_quads(rates_ptr + here, R)
    constants = ()
    if B_CONSTANT or C_CONSTANT:
        constants = state_quads(constants_ptr + here, R)
    skip = zero
    bias = zero
    if D_ptr is not None:
        skip = tl.load(D_ptr + d)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + d)
    place = b * D_INNER + d
    end = ends_ptr + ((b * tl.num_programs(2) + tl.program_id(2)) * D_INNER + d) * (PADDED * 4) + n * 4
    h = ()
    p = ()
    for r in tl.static_range(R):
        p = p + (zero + 1.0, zero)
        if PHASE == 2:
            h = h + (tl.load(end + 4 * r), tl.load(end + 4 * r + 1))
        elif PHASE == 1 or initial_ptr is None:
            h = h + (zero, zero)
    if PHASE == 0 and initial_ptr is not None:
        h = load_states(initial_ptr + place * (2 * D_STATE), n, inside, D_STATE, R, FINISH and D_STATE == PADDED)
    x_lane = x_ptr + b * x_batch + (start + share) * x_time + d
    z_lane = x_lane
    y_lane = y_ptr + (b * seqlen + start + share) * D_INNER + d
    if z_ptr is not None:
        z_lane = z_ptr + b * z_batch + (start + share) * z_time + d
    if not FINISH:
        y_lane += (tl.program_id(0) % STATE_BLOCKS) * (tl.num_programs(1).to(tl.int64) * seqlen * D_INNER)
    dt_lane = dt_ptr + d
    if not DT_CONSTANT:
        dt_lane += b * dt_batch + (start + share) * dt_time
    packed_row = packed_ptr + ((b * GROUPS + group) * rows + start) * (PADDED * 4)
    checkpoints = checkpoint_ptr
    if checkpoint_ptr is not None:
        checkpoints += (b * tl.cdiv(seqlen, 32) * D_INNER + d) * (PADDED * 2)
    left = tl.where(inside, length - share, 0)

    next_x = tl.load(x_lane, mask=left > 0, other=0.0)
    next_dt = tl.load(dt_lane, mask=inside if DT_CONSTANT else left > 0, other=0.0)
    next_z = next_x
    if z_ptr is not None and PHASE != 1 and FINISH:
        next_z = tl.load(z_lane, mask=left > 0, other=0.0)
    for k in range(tl.cdiv(length, STEPS)):
        if checkpoint_ptr is not None and PHASE != 1:  # noqa: SIM102 (settled at compile time, unlike the inner condition)
            if k % 4 == 0:
                at = checkpoints + (start // 32 + k // 4) * (D_INNER * PADDED * 2)
                store_states(at, n, h, inside, D_STATE, R, True)
        x = next_x.to(tl.float32)
        step = next_dt.to(tl.float32) + bias
        z = next_z.to(tl.float32)
        ahead = left > STEPS
        next_x = tl.load(x_lane + STEPS * x_time, mask=ahead, other=0.0)
        if DT_CONSTANT:
            next_dt = tl.load(dt_lane, mask=inside, other=0.0)
        else:
            next_dt = tl.load(dt_lane + STEPS * dt_time, mask=ahead, other=0.0)
        if z_ptr is not None and PHASE != 1 and FINISH:
            next_z = tl.load(z_lane + STEPS * z_time, mask=ahead, other=0.0)
        else:
            next_z = next_x
        if not (B_CONSTANT and C_CONSTANT):  # the block after this one, which is there even at the end
            for i in tl.static_range((SECTORS + 32 * WARPS - 1) // (32 * WARPS)):
                sector = tl.minimum(thread + i * 32 * WARPS, SECTORS - 1)
                prefetch_l1(packed_row + STEPS * PADDED * 4 + sector * 8)
        if SOFTPLUS:
            step = softplus(step)
        step = tl.where(left > 0, step, 0.0)  # a step of zero length leaves the state as it is
        steps = in_all_positions(step)
        inflows = in_all_positions(step * x)
        cut = ()
        if reset_ptr is not None:
            flag = tl.load(reset_ptr + b * seqlen + start + k * STEPS + share, mask=k * STEPS + share < length, other=0)
            cut = in_all_positions(tl.where(flag != 0, 1.0, 0.0))
        sums = ()
        for i in tl.static_range(STEPS):
            quads = quads_of(packed_row + (i * PADDED + n) * 4, constants, B_CONSTANT, C_CONSTANT, R)
            scaled = steps[i] * LOG2E
            total = zero
            h_on = ()
            p_on = ()
            for r in tl.static_range(R):
                a_re, a_im = decay(steps[i], scaled, rates[r])
                h_re = h[2 * r]
                h_im = h[2 * r + 1]
                if reset_ptr is not None:
                    h_re = tl.where(cut[i] != 0.0, 0.0, h_re)
                    h_im = tl.where(cut[i] != 0.0, 0.0, h_im)
                re = a_re * h_re - a_im * h_im + inflows[i] * quads[r][0]
                im = a_re * h_im + a_im * h_re + inflows[i] * quads[r][1]
                h_on = h_on + (re, im)
                total = total + re * quads[r][2]
                total = total - im * quads[r][3]
                if PHASE == 1:
                    p_re = p[2 * r]
                    p_im = p[2 * r + 1]
                    if reset_ptr is not None:
                        p_re = tl.where(cut[i] != 0.0, 0.0, p_re)
                        p_im = tl.where(cut[i] != 0.0, 0.0, p_im)
                    p_on = p_on + (a_re * p_re - a_im * p_im, a_re * p_im + a_im * p_re)
            h = h_on
            if PHASE == 1:
                p = p_on
            sums = sums + (total,)
        if PHASE != 1:
            y = own_position(sums, share)
            if FINISH:
                y += skip * x
                if z_ptr is not None:
                    y = y * silu(z)
            tl.store(y_lane, y.to(y_ptr.dtype.element_ty), mask=left > 0)
        left -= STEPS
        x_lane += STEPS * x_time
        y_lane += STEPS * D_INNER
        if z_ptr is not None:
            z_lane += STEPS * z_time
        if not DT_CONSTANT:
            dt_lane += STEPS * dt_time
        packed_row += STEPS * PADDED * 4
    if PHASE == 1:
        for r in tl.static_range(R):
            store_quad(end + 4 * r, (h[2 * r], h[2 * r + 1], p[2 * r], p[2 * r + 1]), inside)
    elif tl.program_id(2) == tl.num_programs(2) - 1:
        store_states(final_ptr + place * (2 * D_STATE), n, h, inside, D_STATE, R, D_STATE == PADDED)
