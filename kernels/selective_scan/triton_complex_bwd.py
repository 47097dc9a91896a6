"""The Triton kernels of the backward scan with complex A. Layout and helpers: `triton_complex`; derivation: README.md.

A program walks the tiles of one part of the sequence from its end. Of each tile of 32 positions it first finds the states that enter
its four blocks of 8, from the checkpoint; then it takes the blocks from the last to the first (`triton_complex_bwd_block`): replays the
states, and goes back.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, prefetch_l1, sigmoid, silu, softplus
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
from kernels.selective_scan.triton_complex_bwd_block import add_warps, replay, reverse
from kernels.selective_scan.triton_lanes import claim_scratch, lane_flip, store_quad

BLOCKS_A_TILE = tl.constexpr(4)


@triton.jit(
    do_not_specialize=[
        "seqlen", "parts", "part_tiles", "rows", "x_batch", "x_time", "dt_batch", "dt_time", "z_batch", "z_time", "dy_batch",
        "dy_time",
    ]
)  # fmt: skip
def complex_backward_kernel(
    x_ptr,
    dt_ptr,
    z_ptr,
    dy_ptr,
    rates_ptr,
    packed_ptr,
    constants_ptr,
    D_ptr,
    bias_ptr,
    reset_ptr,
    checkpoint_ptr,
    carry_ptr,
    dx_ptr,
    ddt_ptr,
    dz_ptr,
    sums_ptr,
    dA_ptr,
    dconstants_ptr,
    dD_ptr,
    dbias_ptr,
    dinitial_ptr,
    part_ptr,
    scratch_ptr,
    seqlen,
    parts,
    part_tiles,
    rows,
    x_batch,
    x_time,
    dt_batch,
    dt_time,
    z_batch,
    z_time,
    dy_batch,
    dy_time,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    B_CONSTANT: tl.constexpr,
    C_CONSTANT: tl.constexpr,
    R: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Every gradient of one part of the sequence, dA and the like as this part's sums, dB and dC as sums over the program.

    Program ids: (block of channels * blocks of states + block of states, part, batch). With more than one block of states
    sums (3, blocks, batch, seqlen, d_inner) get its Re(B'* G), Re(A'* w) and 2 Re(C h), and dx, ddt, dz, dD, dbias nothing.
    """
    HAS_RESET: tl.constexpr = reset_ptr is not None
    GROUP_SIZE: tl.constexpr = D_INNER // GROUPS
    BLOCKS: tl.constexpr = (GROUP_SIZE + 4 * WARPS - 1) // (4 * WARPS)
    STATE_BLOCKS: tl.constexpr = PADDED // (8 * R)
    FINISH: tl.constexpr = STATE_BLOCKS == 1
    SELECTIVE: tl.constexpr = not (B_CONSTANT and C_CONSTANT)
    block = tl.program_id(0) // STATE_BLOCKS
    state_block = tl.program_id(0) % STATE_BLOCKS
    part = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    thread = tl.arange(0, 32 * WARPS)
    share = thread & 7
    local = block % BLOCKS * (4 * WARPS) + (thread >> 3)
    group = block // BLOCKS
    inside = local < GROUP_SIZE
    d = group * GROUP_SIZE + tl.minimum(local, GROUP_SIZE - 1)
    n = state_block * (8 * R) + share * R
    zero = tl.zeros((32 * WARPS,), tl.float32)
    place = b * parts + part
    tiles = tl.cdiv(seqlen, 32)
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
    x_lane = x_ptr + b * x_batch + d
    dy_lane = dy_ptr + b * dy_batch + d
    dt_lane = dt_ptr + d
    z_lane = x_lane
    if not DT_CONSTANT:
        dt_lane += b * dt_batch
    if z_ptr is not None:
        z_lane = z_ptr + b * z_batch + d
    out = b * seqlen * D_INNER + d
    packed = packed_ptr + (b * GROUPS + group) * rows * (PADDED * 4) + n * 4
    checkpoints = checkpoint_ptr + (b * tiles * D_INNER + d) * (PADDED * 2)
    scratch = scratch_ptr
    part_row = part_ptr
    if SELECTIVE:
        pid = (place * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)
        scratch = claim_scratch(scratch_ptr + pid * (WARPS * 512 * R), thread)
        part_row += (b * tl.num_programs(0) + tl.program_id(0)) * (tiles * 4) * (256 * R)
    g = ()
    dA = ()
    dB_const = ()
    dC_const = ()
    for r in tl.static_range(R):
        dA = dA + (zero, zero)
        dB_const = dB_const + (zero, zero)
        dC_const = dC_const + (zero, zero)
        if carry_ptr is None:
            g = g + (zero, zero)
        else:
            entry = carry_ptr + ((place * D_INNER + d) * PADDED + n + r) * 4
            g = g + (tl.load(entry), tl.load(entry + 1))
    dD = zero
    dbias = zero

    first_tile = part * part_tiles
    count = tl.minimum(part_tiles, tiles - first_tile)
    for back in range(count):
        tile = (first_tile + count - 1 - back).to(tl.int64)
        first = load_states(checkpoints + tile * (D_INNER * PADDED * 2), n, inside, D_STATE, R, True)
        h = first
        second = ()
        third = ()
        fourth = ()
        for _r in tl.static_range(2 * R):
            second = second + (zero,)
            third = third + (zero,)
            fourth = fourth + (zero,)
        for k in range(BLOCKS_A_TILE - 1):  # the states that enter the tile's other blocks
            t = tile * 32 + k * STEPS + share
            mask = inside & (t < seqlen)
            x = tl.load(x_lane + t * x_time, mask=mask, other=0.0).to(tl.float32)
            if DT_CONSTANT:
                step = tl.load(dt_lane, mask=inside, other=0.0).to(tl.float32) + bias
            else:
                step = tl.load(dt_lane + t * dt_time, mask=mask, other=0.0).to(tl.float32) + bias
            if SOFTPLUS:
                step = softplus(step)
            step = tl.where(mask, step, 0.0)
            steps = in_all_positions(step)
            inflows = in_all_positions(step * x)
            cut = ()
            if HAS_RESET:
                flag = tl.load(reset_ptr + b * seqlen + t, mask=t < seqlen, other=0)
                cut = in_all_positions(tl.where(flag != 0, 1.0, 0.0))
            row = packed + (tile * 32 + k * STEPS) * (PADDED * 4)
            for i in tl.static_range(STEPS):
                quads = quads_of(row + i * (PADDED * 4), constants, B_CONSTANT, C_CONSTANT, R)
                scaled = steps[i] * LOG2E
                h_on = ()
                for r in tl.static_range(R):
                    a_re, a_im = decay(steps[i], scaled, rates[r])
                    h_re = h[2 * r]
                    h_im = h[2 * r + 1]
                    if HAS_RESET:
                        h_re = tl.where(cut[i] != 0.0, 0.0, h_re)
                        h_im = tl.where(cut[i] != 0.0, 0.0, h_im)
                    h_on = h_on + (
                        a_re * h_re - a_im * h_im + inflows[i] * quads[r][0],
                        a_re * h_im + a_im * h_re + inflows[i] * quads[r][1],
                    )
                h = h_on
            second_on = ()
            third_on = ()
            fourth_on = ()
            for r in tl.static_range(2 * R):
                second_on = second_on + (tl.where(k == 0, h[r], second[r]),)
                third_on = third_on + (tl.where(k == 1, h[r], third[r]),)
                fourth_on = fourth_on + (tl.where(k == 2, h[r], fourth[r]),)
            second = second_on
            third = third_on
            fourth = fourth_on

        for ahead in range(BLOCKS_A_TILE):
            k = BLOCKS_A_TILE - 1 - ahead
            t = tile * 32 + k * STEPS + share
            mask = inside & (t < seqlen)
            x = tl.load(x_lane + t * x_time, mask=mask, other=0.0).to(tl.float32)
            dy = tl.load(dy_lane + t * dy_time, mask=mask, other=0.0).to(tl.float32)
            if DT_CONSTANT:
                raw = tl.load(dt_lane, mask=inside, other=0.0).to(tl.float32) + bias
            else:
                raw = tl.load(dt_lane + t * dt_time, mask=mask, other=0.0).to(tl.float32) + bias
            gated = dy
            z = dy
            if z_ptr is not None:
                z = tl.load(z_lane + t * z_time, mask=mask, other=0.0).to(tl.float32)
                gated = dy * silu(z)
            earlier = tl.maximum(t - 32, 0)  # what the tile before this one reads
            limit = tl.minimum(earlier, seqlen - 1)
            prefetch_l1(x_lane + limit * x_time)
            prefetch_l1(dy_lane + limit * dy_time)
            if not DT_CONSTANT:
                prefetch_l1(dt_lane + limit * dt_time)
            if z_ptr is not None:
                prefetch_l1(z_lane + limit * z_time)
            step = raw
            if SOFTPLUS:
                step = softplus(raw)
            step = tl.where(mask, step, 0.0)
            steps = in_all_positions(step)
            inflows = in_all_positions(step * x)
            dys = in_all_positions(gated)
            cut = ()
            if HAS_RESET:
                flag = tl.load(reset_ptr + b * seqlen + t, mask=t < seqlen, other=0)
                cut = in_all_positions(tl.where(flag != 0, 1.0, 0.0))
            entering = ()
            for r in tl.static_range(2 * R):
                early = tl.where(k == 0, first[r], second[r])
                entering = entering + (tl.where(k == 3, fourth[r], tl.where(k == 2, third[r], early)),)
            row = packed + (tile * 32 + k * STEPS) * (PADDED * 4)
            kept, ys, dCs, dC_sums = replay(
                steps, inflows, dys, cut, entering, rates, row, constants, thread, zero,
                PADDED, B_CONSTANT, C_CONSTANT, HAS_RESET, R,
            )  # fmt: skip
            g, dA, s1, s2, sums, dB_sums = reverse(
                kept, steps, inflows, dys, cut, g, dA, dCs, rates, row, constants, thread, zero,
                PADDED, B_CONSTANT, C_CONSTANT, HAS_RESET, R,
            )  # fmt: skip
            if SELECTIVE:
                add_warps(sums, scratch, part_row + (tile * 4 + k) * (256 * R), thread, k, WARPS, R)
            if B_CONSTANT:
                dB_on = ()
                for r in tl.static_range(2 * R):
                    dB_on = dB_on + (dB_const[r] + dB_sums[r],)
                dB_const = dB_on
            if C_CONSTANT:
                dC_on = ()
                for r in tl.static_range(2 * R):
                    dC_on = dC_on + (dC_const[r] + dC_sums[r],)
                dC_const = dC_on
            Bg = own_position(s1, share)
            Aw = own_position(s2, share)
            at = out + t * D_INNER
            if FINISH:
                dx = step * Bg + skip * gated
                ddt = x * Bg + Aw
                if SOFTPLUS:
                    ddt = ddt * sigmoid(raw)
                ddt = tl.where(mask, ddt, 0.0)
                tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
                if not DT_CONSTANT:
                    tl.store(ddt_ptr + at, ddt.to(ddt_ptr.dtype.element_ty), mask=mask)
                if z_ptr is not None:
                    gate = sigmoid(z)
                    dz = dy * (own_position(ys, share) + skip * x) * gate * (1.0 + z * (1.0 - gate))
                    tl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=mask)
                dD += x * gated
                dbias += ddt
            else:
                size = tl.num_programs(2).to(tl.int64) * seqlen * D_INNER
                tl.store(sums_ptr + state_block * size + at, Bg, mask=mask)
                tl.store(sums_ptr + (STATE_BLOCKS + state_block) * size + at, Aw, mask=mask)
                tl.store(sums_ptr + (2 * STATE_BLOCKS + state_block) * size + at, own_position(ys, share), mask=mask)

    store_states(dA_ptr + (place * D_INNER + d) * (PADDED * 2), n, dA, inside, D_STATE, R, True)
    if B_CONSTANT or C_CONSTANT:
        for r in tl.static_range(R):
            quad = (dB_const[2 * r], dB_const[2 * r + 1], dC_const[2 * r], dC_const[2 * r + 1])
            store_quad(dconstants_ptr + ((place * D_INNER + d) * PADDED + n + r) * 4, quad, inside)
    if FINISH:  # a lane has the sums over its own positions
        for level in tl.static_range(3):
            dD = dD + lane_flip(dD, 4 >> level)
            dbias = dbias + lane_flip(dbias, 4 >> level)
        tl.store(dD_ptr + place * D_INNER + d, dD, mask=inside & (share == 0))
        tl.store(dbias_ptr + place * D_INNER + d, dbias, mask=inside & (share == 0))
    if dinitial_ptr is not None:  # noqa: SIM102 (settled at compile time, unlike the inner condition)
        if part == 0:
            store_states(dinitial_ptr + (b * D_INNER + d) * (D_STATE * 2), n, g, inside, D_STATE, R, D_STATE == PADDED)
