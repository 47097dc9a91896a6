"""The main Triton kernel of the backward selective scan.

One program walks the tiles (32 time steps each) of one chunk of the sequence from its end, for WARPS * 8 * CHANNELS channels. The
derivation, the layout and the numerics are in README.md.

Legend: program id = (batch * chunks + chunk) * blocks + block of channels; every tensor has one element per thread; within a warp
lane = 16 * (channel group // 4) + 4 * piece + channel group % 4, where a piece is one of the 4 runs of STEPS = 8 time steps of a
tile and a channel group is CHANNELS neighbouring channels: a thread holds STEPS x CHANNELS elements in registers.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_bwd_rows import (
    fetch_tile,
    finish_tile,
    load_tile,
    load_vectors,
    over_pieces,
    spans_between,
)
from kernels.selective_scan.triton_bwd_short import add_short_partials
from kernels.selective_scan.triton_bwd_state import (
    add_partials,
    enter_pieces,
    in_every_channel,
    in_every_step,
    leave_sums,
    replay_gradients,
    replay_states,
)
from kernels.selective_scan.triton_common import ex2, kept_place, prefetch_l1
from kernels.selective_scan.triton_lanes import (
    claim_scratch,
    lane_down,
    lane_up,
    load_own,
    load_row,
    store_own,
    store_row,
    sum_pieces,
)

TILE = tl.constexpr(32)
STEPS = tl.constexpr(8)
CLOSED = tl.constexpr(-1e30)  # an exponent that makes a decay zero, whatever the sign of A


@triton.jit(
    do_not_specialize=[
        "seqlen",
        "tiles",
        "chunks",
        "chunk_tiles",
        "x_batch",
        "x_time",
        "x_channel",
        "dt_batch",
        "dt_time",
        "dt_channel",
        "z_batch",
        "z_time",
        "z_channel",
        "dy_batch",
        "dy_time",
        "dy_channel",
        "reset_batch",
        "reset_time",
        "out_batch",
    ]
)
def scan_backward_kernel(
    x_ptr,
    dt_ptr,
    z_ptr,
    dy_ptr,
    A_ptr,
    BC_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    reset_ptr,
    checkpoint_ptr,
    carry_ptr,
    dx_ptr,
    ddt_ptr,
    dz_ptr,
    dA_ptr,
    dB_ptr,
    dC_ptr,
    dD_ptr,
    dbias_ptr,
    part_ptr,
    scale_ptr,
    scratch_ptr,
    part_width,
    seqlen,
    tiles,
    chunks,
    chunk_tiles,
    x_batch,
    x_time,
    x_channel,
    dt_batch,
    dt_time,
    dt_channel,
    z_batch,
    z_time,
    z_channel,
    dy_batch,
    dy_time,
    dy_channel,
    reset_batch,
    reset_time,
    out_batch,
    ROW_X: tl.constexpr,
    ROW_DT: tl.constexpr,
    ROW_Z: tl.constexpr,
    ROW_DY: tl.constexpr,
    ROW_OUT: tl.constexpr,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    BLOCK: tl.constexpr,
    WARPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAIRS: tl.constexpr,
    MASKED: tl.constexpr,
    EXACT: tl.constexpr,
    CARRIED: tl.constexpr,
    PREFETCH: tl.constexpr,
    HALVES: tl.constexpr,
):
    HAS_Z: tl.constexpr = z_ptr is not None
    HAS_RESET: tl.constexpr = reset_ptr is not None
    B_CONSTANT: tl.constexpr = B_ptr is not None
    C_CONSTANT: tl.constexpr = C_ptr is not None
    SHORT: tl.constexpr = scale_ptr is not None
    UNIT: tl.constexpr = 2 if PAIRS else 1
    SPAN: tl.constexpr = 8 * WARPS * CHANNELS
    GROUP_SIZE: tl.constexpr = D_INNER // GROUPS
    BLOCKS: tl.constexpr = GROUPS * ((GROUP_SIZE + SPAN - 1) // SPAN)
    THREADS: tl.constexpr = 32 * WARPS
    pid = tl.program_id(0)
    block = pid % BLOCKS
    place = (pid // BLOCKS).to(tl.int64)
    chunk = pid // BLOCKS % chunks
    b = place // chunks
    group = block // (BLOCKS // GROUPS)
    thread = tl.arange(0, THREADS)
    lane = thread & 31
    piece = (lane >> 2) & 3
    local = (block % (BLOCKS // GROUPS)) * SPAN + ((thread >> 5) * 8 + (lane >> 4) * 4 + (lane & 3)) * CHANNELS
    d = group * GROUP_SIZE + local
    t_lane = piece * STEPS
    zero = tl.zeros((THREADS,), tl.float32)
    channel_mask = ()
    for c in tl.static_range(CHANNELS):
        channel_mask = channel_mask + (local + c < GROUP_SIZE,)

    # Offsets of the thread's first element within a tile. Rows with a constant stride get immediate addresses.
    row_x = ROW_X if ROW_X > 0 else x_time
    row_dt = ROW_DT if ROW_DT > 0 else dt_time
    row_z = ROW_Z if ROW_Z > 0 else z_time
    row_dy = ROW_DY if ROW_DY > 0 else dy_time
    if PAIRS:
        at_x = t_lane * (ROW_X // 2) + d // 2
        at_dt = t_lane * (ROW_DT // 2) + d // 2
        at_z = t_lane * (ROW_Z // 2) + d // 2
        at_dy = t_lane * (ROW_DY // 2) + d // 2
    else:
        wide = d.to(tl.int64)
        at_x = t_lane * row_x + wide * x_channel
        at_dt = t_lane * row_dt + wide * dt_channel
        at_z = t_lane * row_z + wide * z_channel
        at_dy = t_lane * row_dy + wide * dy_channel
    at_rows = (at_x, at_dt, at_z, at_dy)
    rows = (row_x, row_dt, row_z, row_dy)
    row_channels = (x_channel, dt_channel, z_channel, dy_channel)
    at_out = t_lane * (ROW_OUT // UNIT) + d // UNIT
    at_d = d // UNIT
    at_kept = kept_place(d, D_INNER, HALVES)

    # Per-program bases.
    x_ptr += b * x_batch
    dt_ptr += b * dt_batch
    dy_ptr += b * dy_batch
    dx_ptr += b * out_batch
    ddt_ptr += b * out_batch
    if HAS_Z:
        z_ptr += b * z_batch
        dz_ptr += b * out_batch
    if HAS_RESET:
        reset_ptr += b * reset_batch
    BC_ptr += (b * GROUPS + group) * tiles * (2 * D_STATE * TILE)
    checkpoint_ptr += b * tiles * (D_STATE * D_INNER)
    carry_ptr += place * (D_STATE * D_INNER)
    sums = place * (D_STATE * D_INNER)
    mine = piece & (CHANNELS - 1)  # the channel whose sums over the pieces this lane keeps
    own = local + mine < GROUP_SIZE
    dA_ptr += sums + d + mine
    part_row = BLOCKS * part_width
    if SHORT:
        part_ptr += b * tiles * (D_STATE // 2 * part_row) + block * SPAN
        scale_ptr += (b * tiles * BLOCKS + block) * (2 * D_STATE)
    else:
        part_ptr += b * tiles * (D_STATE * part_row) + block * part_width
    scratch = claim_scratch(scratch_ptr + pid.to(tl.int64) * (WARPS * 2 * BLOCK * TILE), thread)
    kind = (lane >> 1) & 1
    at_scratch = ((thread >> 5) * 2 + kind) * (BLOCK * TILE) + t_lane + (lane & 1) * 4

    skip, bias, step_constant, zeros = load_vectors(
        D_ptr, bias_ptr, dt_ptr, d, channel_mask, zero, SOFTPLUS, DT_CONSTANT, CHANNELS
    )
    dD = zeros
    dbias = zeros
    for n in range(D_STATE):
        tl.store(dA_ptr + n * D_INNER, zero, mask=own)
        if B_CONSTANT:
            tl.store(dB_ptr + sums + n * D_INNER + d + mine, zero, mask=own)
        if C_CONSTANT:
            tl.store(dC_ptr + sums + n * D_INNER + d + mine, zero, mask=own)
        if not CARRIED:
            first_piece = ()
            for c in tl.static_range(CHANNELS):
                first_piece = first_piece + (channel_mask[c] & (piece == 0),)
            store_row(carry_ptr + n * D_INNER, at_d, zeros, first_piece, CHANNELS, PAIRS, True)
    tl.debug_barrier()
    # Exponents that close the first and last pieces' lanes: nothing comes from beyond the tile but the carries.
    open_up0 = tl.where(piece >= 1, 0.0, CLOSED)
    open_up1 = tl.where(piece >= 2, 0.0, CLOSED)
    open_down0 = tl.where(piece <= 2, 0.0, CLOSED)
    open_down1 = tl.where(piece <= 1, 0.0, CLOSED)

    count = tl.minimum(chunk_tiles, tiles - chunk * chunk_tiles)
    for k in range(count):
        tile = (chunk * chunk_tiles + count - 1 - k).to(tl.int64)
        t0 = tile * TILE
        cut = ()
        if HAS_RESET:
            closed = zero
            for i in tl.static_range(STEPS):
                moment = t0 + t_lane + i
                flag = tl.load(reset_ptr + moment * reset_time, mask=moment < seqlen, other=0)
                cut = cut + (tl.where(flag != 0, CLOSED, 0.0),)
                closed = closed + cut[i]
            before = lane_up(closed, 4)
            after = lane_down(closed, 4)
            up0 = open_up0 + before
            up1 = open_up1 + before + lane_up(before, 4)
            down0 = open_down0 + after
            down1 = open_down1 + after + lane_down(after, 4)
        else:
            up0 = open_up0
            up1 = open_up1
            down0 = open_down0
            down1 = open_down1
        dts, dus, dys, totals = load_tile(
            (x_ptr, dt_ptr, z_ptr, dy_ptr),
            at_rows,
            rows,
            row_channels,
            channel_mask,
            t0,
            t_lane,
            seqlen,
            bias,
            step_constant,
            zeros,
            SOFTPLUS,
            DT_CONSTANT,
            CHANNELS,
            PAIRS,
            MASKED,
        )
        span_up, span_down = spans_between(totals, CHANNELS)

        if PREFETCH:
            fetch_tile(
                (BC_ptr, checkpoint_ptr, x_ptr, dt_ptr, z_ptr, dy_ptr),
                tl.maximum(tile - 1, 0),
                (block % (BLOCKS // GROUPS)) * SPAN + group * GROUP_SIZE,
                thread,
                (ROW_X, ROW_DT, ROW_Z, ROW_DY),
                DT_CONSTANT,
                D_INNER,
                D_STATE,
                SPAN,
                HALVES,
                THREADS,
            )

        ys = ()
        for _i in tl.static_range(STEPS * CHANNELS):
            ys = ys + (zero,)
        s1 = ys
        s2 = ys
        entering = checkpoint_ptr + tile * (D_STATE * D_INNER)
        BC_tile = BC_ptr + tile * (2 * D_STATE * TILE) + t_lane
        for n_first in range(0, D_STATE, BLOCK):
            tl.debug_barrier()  # every warp has read the last block's sums
            a_now = load_row(A_ptr + n_first * D_INNER, at_d, channel_mask, 1, CHANNELS, PAIRS, MASKED)
            for n in range(n_first, n_first + BLOCK if D_STATE % BLOCK == 0 else tl.minimum(n_first + BLOCK, D_STATE)):
                if B_CONSTANT:
                    Bs = in_every_step(
                        load_row(B_ptr + n * D_INNER, at_d, channel_mask, 1, CHANNELS, PAIRS, MASKED), CHANNELS
                    )
                else:
                    Bs = in_every_channel(BC_tile + n * (2 * TILE), CHANNELS)
                if C_CONSTANT:
                    Cs = in_every_step(
                        load_row(C_ptr + n * D_INNER, at_d, channel_mask, 1, CHANNELS, PAIRS, MASKED), CHANNELS
                    )
                else:
                    Cs = in_every_channel(BC_tile + n * (2 * TILE) + TILE, CHANNELS)
                # The rate is wanted first, so it comes one state ahead. A load that is carried over to the next state is waited
                # for at the loop's end, so nothing else is.
                n_next = tl.minimum(n + 1, D_STATE - 1)
                a_next = load_row(A_ptr + n_next * D_INNER, at_d, channel_mask, 1, CHANNELS, PAIRS, MASKED)
                h_now = load_row(entering + n * D_INNER, at_kept // UNIT, channel_mask, 1, CHANNELS, PAIRS, MASKED)
                g_late = load_row(carry_ptr + n * D_INNER, at_d, channel_mask, 1, CHANNELS, PAIRS, MASKED)
                dA_old = load_own(dA_ptr + n * D_INNER, own, MASKED)
                if PREFETCH:  # to L1, what a later state reads: it would not outlast a whole tile there
                    n_far = tl.minimum(n + 3, D_STATE - 1)
                    prefetch_l1(BC_tile + n_far * (2 * TILE))
                    prefetch_l1(BC_tile + n_far * (2 * TILE) + TILE)
                    prefetch_l1(entering + n_far * D_INNER + at_kept)
                # Channels go side by side through every stage: that keeps twice the independent work in flight.
                a = ()
                u = ()
                q = ()
                for i in tl.static_range(STEPS * CHANNELS):
                    if HAS_RESET:
                        a = a + (ex2(dts[i] * a_now[i % CHANNELS] + cut[i // CHANNELS]),)
                    else:
                        a = a + (ex2(dts[i] * a_now[i % CHANNELS]),)
                    u = u + (dus[i] * Bs[i],)
                    q = q + (dys[i] * Cs[i],)
                opens = (up0, up1, down0, down1)
                h, g = enter_pieces(a, u, q, h_now, g_late, a_now, span_up, span_down, opens, piece, CHANNELS)
                kept, ys, dCs, dC_sums = replay_states(a, u, h, ys, dys, Cs, zero, HAS_Z, C_CONSTANT, CHANNELS)
                g, s1, s2, dBs, dA_sums, dB_sums = replay_gradients(
                    a, q, g, kept, s1, s2, dts, dus, Bs, a_now, zero, B_CONSTANT, CHANNELS
                )
                store_own(dA_ptr + n * D_INNER, dA_old + sum_pieces(dA_sums, piece, CHANNELS), own, MASKED)
                if B_CONSTANT:
                    total = dB_ptr + sums + n * D_INNER + d + mine
                    store_own(total, load_own(total, own, MASKED) + sum_pieces(dB_sums, piece, CHANNELS), own, MASKED)
                if C_CONSTANT:
                    total = dC_ptr + sums + n * D_INNER + d + mine
                    store_own(total, load_own(total, own, MASKED) + sum_pieces(dC_sums, piece, CHANNELS), own, MASKED)
                first_piece = ()
                for c in tl.static_range(CHANNELS):
                    first_piece = first_piece + (channel_mask[c] & (piece == 0),)
                store_row(carry_ptr + n * D_INNER, at_d, g, first_piece, CHANNELS, PAIRS, True)
                a_now = a_next
                if not (B_CONSTANT and C_CONSTANT):
                    leave_sums(scratch, (n - n_first) * TILE + at_scratch, dBs, dCs, lane, EXACT)
            if not (B_CONSTANT and C_CONSTANT):
                tl.debug_barrier()
                if SHORT:
                    part = part_ptr + tile * (D_STATE // 2 * part_row)
                    scale = scale_ptr + tile * (BLOCKS * 2 * D_STATE)
                    add_short_partials(scratch, part, scale, part_row, thread, n_first, D_STATE, BLOCK, WARPS)
                else:
                    part = part_ptr + tile * (D_STATE * part_row)
                    add_partials(scratch, part, part_row, thread, n_first, D_STATE, BLOCK, WARPS)

        dD, dbias = finish_tile(
            (x_ptr, dt_ptr, z_ptr, dy_ptr),
            at_rows,
            rows,
            row_channels,
            channel_mask,
            t0,
            t_lane,
            seqlen,
            (dts, dys, ys, s1, s2, skip),
            (dx_ptr, ddt_ptr, dz_ptr),
            at_out,
            dD,
            dbias,
            SOFTPLUS,
            DT_CONSTANT,
            ROW_OUT,
            CHANNELS,
            PAIRS,
            MASKED,
        )

    for c in tl.static_range(CHANNELS):
        skip_sum = over_pieces(dD[c])
        bias_sum = over_pieces(dbias[c])
        inside = channel_mask[c] & (piece == 0)
        tl.store(dD_ptr + place * D_INNER + d + c, skip_sum, mask=inside)
        tl.store(dbias_ptr + place * D_INNER + d + c, bias_sum, mask=inside)
