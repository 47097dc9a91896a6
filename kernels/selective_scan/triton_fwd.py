"""Triton kernels of the forward selective scan.

`scan_kernel` does everything between the projections: softplus(dt + dt_bias), discretisation, scan, contraction with C, skip and
gate, in one pass. A warp holds BLOCKS consecutive pieces of STEPS time steps for 32 / BLOCKS channel groups: every thread scans its
own piece from a zero state, the pieces are joined over the lanes by log2(BLOCKS) shuffles whose decays are one exponential of a
sum of dt each, and the thread replays its piece from the state that truly enters it. The derivation, the choice of tile sizes and
the numerics are in README.md.

Legend: program ids are (channel block, batch, split of the sequence); tensors are a `lane_grid`, lane = block + BLOCKS * channel
group; a thread holds STEPS x CHANNELS elements; a tile is BLOCKS * STEPS time steps. What a tile begins with is in triton_fwd_tile.
"""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import (
    LOG2E,
    ex2,
    kept_place,
    lane_grid,
    load_channels,
    load_floats,
    silu,
    store_channels,
    take_lane,
)
from kernels.selective_scan.triton_fwd_tile import (
    CHECKPOINT_STEPS,
    MAX_CARRIES,
    convert_tile,
    plan_joins,
    read_resets,
    span_of,
    state_floats,
    touch_count,
    touch_rows,
)


@triton.jit
def scan_kernel(
    x_ptr,
    dt_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    packed_ptr,
    D_ptr,
    z_ptr,
    bias_ptr,
    reset_ptr,
    initial_ptr,
    y_ptr,
    final_ptr,
    checkpoints_ptr,
    states_ptr,
    spans_ptr,
    seqlen,
    split_len,
    packed_tiles,
    x_stride_batch,
    dt_stride_batch,
    z_stride_batch,
    b_stride_batch,
    b_stride_time,
    b_stride_group,
    b_stride_state,
    c_stride_batch,
    c_stride_time,
    c_stride_group,
    c_stride_state,
    X_STRIDE: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    Z_STRIDE: tl.constexpr,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    NGROUPS: tl.constexpr,
    DT_SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    B_CONSTANT: tl.constexpr,
    C_CONSTANT: tl.constexpr,
    PACKED: tl.constexpr,
    PHASE: tl.constexpr,
    MASKED: tl.constexpr,
    FETCH: tl.constexpr,
    BLOCKS: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WARPS: tl.constexpr,
    STATES: tl.constexpr,
    HALVES: tl.constexpr,
):
    """PHASE 0: scan a whole sequence. 1: end state and span of every split, from zero. 2: scan a split from its entering state.

    STATES states are unrolled at a time. The tuple of carries rotates by as many, so that its indices stay constants.
    """
    TILE: tl.constexpr = BLOCKS * STEPS
    GROUPS_OF_CHANNELS: tl.constexpr = 32 // BLOCKS
    WIDTH: tl.constexpr = WARPS * GROUPS_OF_CHANNELS * CHANNELS
    TOUCHES: tl.constexpr = FETCH * (
        touch_count(x_ptr, TILE, WIDTH, WARPS)
        + (not DT_CONSTANT) * touch_count(dt_ptr, TILE, WIDTH, WARPS)
        + (z_ptr is not None and PHASE != 1) * touch_count(x_ptr if z_ptr is None else z_ptr, TILE, WIDTH, WARPS)
        + (PACKED and NGROUPS == 1) * ((D_STATE * 2 * TILE // 8 + 32 * WARPS - 1) // (32 * WARPS))
    )
    LEVELS: tl.constexpr = (BLOCKS > 1) + (BLOCKS > 2) + (BLOCKS > 4) + (BLOCKS > 8) + (BLOCKS > 16)
    QUAD: tl.constexpr = 4 if STEPS % 4 == 0 else STEPS
    IN_REGISTERS: tl.constexpr = D_STATE <= MAX_CARRIES
    ALIGNED: tl.constexpr = STATES % 4 == 0 and D_STATE % 4 == 0
    RESET: tl.constexpr = reset_ptr is not None
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    lane, warp, zero = lane_grid(WARPS)
    block = lane % BLOCKS
    row0 = lane - block
    first = block == 0
    previous = row0 + tl.maximum(block - 1, 0)
    last_lane = row0 + (BLOCKS - 1)
    channel = ((tl.program_id(0) * WARPS + warp) * GROUPS_OF_CHANNELS + lane // BLOCKS) * CHANNELS
    inside = channel < D_INNER
    d = tl.minimum(channel, D_INNER - CHANNELS)
    thread = warp * 32 + lane
    start = split * split_len
    length = tl.minimum(split_len, seqlen - start)

    skip = ()
    bias = ()
    if D_ptr is not None:
        skip = load_channels(D_ptr + d, inside, False, CHANNELS)
    if bias_ptr is not None:
        bias = load_channels(bias_ptr + d, inside, False, CHANNELS)

    # The state that enters the split: in registers, or in scratch memory where only the first lane of a channel touches it.
    slot = states_ptr + (batch * splits + split) * (D_STATE * D_INNER) + d
    entering = initial_ptr + (batch * D_INNER + d) * D_STATE if initial_ptr is not None else None
    carry = ()
    if IN_REGISTERS:
        for n in tl.static_range(D_STATE):
            for c in tl.static_range(CHANNELS):
                if PHASE == 2:
                    carry = carry + (tl.load(slot + (n * D_INNER + c)),)
                elif PHASE == 0 and initial_ptr is not None:
                    carry = carry + (tl.load(entering + (c * D_STATE + n)),)
                else:
                    carry = carry + (zero,)
    elif PHASE != 2:
        for m in range(D_STATE):
            for c in tl.static_range(CHANNELS):
                if PHASE == 0 and initial_ptr is not None:
                    seed = tl.load(entering + (c * D_STATE + m))
                else:
                    seed = zero
                tl.store(slot + (m * D_INNER + c), seed, mask=first & inside)

    x_row = x_ptr + batch * x_stride_batch + start.to(tl.int64) * X_STRIDE
    y_row = y_ptr + (batch * seqlen + start) * D_INNER
    fixed = ()
    if not DT_CONSTANT:
        dt_row = dt_ptr + batch * dt_stride_batch + start.to(tl.int64) * DT_STRIDE
    else:
        dt_row = dt_ptr
        fixed = load_channels(dt_ptr + d, inside, False, CHANNELS)
    if z_ptr is not None:
        z_row = z_ptr + batch * z_stride_batch + start.to(tl.int64) * Z_STRIDE
    else:
        z_row = x_row
    group = d // (D_INNER // NGROUPS)
    bc = packed_ptr
    if PACKED:
        bc = packed_ptr + (batch * NGROUPS * packed_tiles + start // TILE) * (D_STATE * 2 * TILE)
        bc_lane = block * QUAD
        if NGROUPS > 1:
            bc_lane = group.to(tl.int64) * packed_tiles * (D_STATE * 2 * TILE) + block * QUAD
    x_lane = block * (STEPS * X_STRIDE) + d
    dt_lane = block * (STEPS * DT_STRIDE) + d
    z_lane = block * (STEPS * Z_STRIDE) + d
    y_lane = block * (STEPS * D_INNER) + d
    rows_left = tl.where(inside, length - block * STEPS, 0)
    elapsed = ()
    broken = zero.to(tl.int32)
    for _ in tl.static_range(CHANNELS):
        elapsed = elapsed + (zero,)

    # Rows of the next tile are touched while this one is computed, so that its loads find them in L1.
    corner = tl.program_id(0) * WIDTH
    room = tl.minimum(WIDTH, D_INNER - corner)
    touched = zero
    pending = ()
    for _ in tl.static_range(TOUCHES):
        pending = pending + (zero,)

    for tile in range(tl.cdiv(length, TILE)):
        t0 = tile * TILE
        left = rows_left - t0
        if FETCH:
            for i in tl.static_range(TOUCHES):
                touched = touched + pending[i]
            last = length - 1 - t0
            fresh = touch_rows(x_row + corner, TILE, last, room, thread, X_STRIDE, TILE, WIDTH, 32 * WARPS)
            if not DT_CONSTANT:
                fresh = fresh + touch_rows(
                    dt_row + corner, TILE, last, room, thread, DT_STRIDE, TILE, WIDTH, 32 * WARPS
                )
            if z_ptr is not None and PHASE != 1:
                fresh = fresh + touch_rows(z_row + corner, TILE, last, room, thread, Z_STRIDE, TILE, WIDTH, 32 * WARPS)
            if PACKED and NGROUPS == 1:
                ahead = tl.where(t0 + TILE < length, D_STATE * 2 * TILE, 0)
                for i in tl.static_range((D_STATE * 2 * TILE // 8 + 32 * WARPS - 1) // (32 * WARPS)):
                    sector = tl.minimum(thread + i * 32 * WARPS, D_STATE * 2 * TILE // 8 - 1)
                    fresh = fresh + (tl.load(bc + ahead + sector * 8),)
            pending = fresh

        dts, dus, ys, totals = convert_tile(
            x_row + x_lane,
            dt_row + dt_lane,
            fixed,
            skip,
            bias,
            left,
            zero,
            X_STRIDE,
            DT_STRIDE,
            DT_SOFTPLUS,
            DT_CONSTANT,
            MASKED,
            STEPS,
            CHANNELS,
        )

        # Resets: a position keeps what entered it unless it is one; a block, a run of blocks and a split unless they hold one.
        keeps = ()
        hit = zero.to(tl.int32)
        if RESET:
            resets = reset_ptr + batch * seqlen + start + t0 + block * STEPS
            keeps, hit = read_resets(resets, left, hit, MASKED, STEPS)

        links, joins, spans = plan_joins(totals, hit, previous, row0, block, LEVELS, RESET, CHANNELS)

        # The scan, a group of states at a time.
        for outer in range(D_STATE // STATES):
            base = outer * STATES
            first_state = slot + base * D_INNER
            states = ()
            others = ()
            if IN_REGISTERS:
                for i in tl.static_range(STATES * CHANNELS):
                    states = states + (carry[i],)
                for i in tl.static_range(STATES * CHANNELS, D_STATE * CHANNELS):
                    others = others + (carry[i],)
            else:
                for n in tl.static_range(STATES):
                    for c in tl.static_range(CHANNELS):
                        states = states + (tl.load(first_state + (n * D_INNER + c), mask=first, other=0.0),)
            left_states = ()
            sums_y = ys
            rates = ()
            for c in tl.static_range(CHANNELS):
                rates = rates + state_floats(A_ptr + base, d + c, STATES, D_STATE, ALIGNED)
            B_rows = ()
            C_rows = ()
            if B_CONSTANT:
                for c in tl.static_range(CHANNELS):
                    B_rows = B_rows + state_floats(B_ptr + base, d + c, STATES, D_STATE, ALIGNED)
            if C_CONSTANT and PHASE != 1:
                for c in tl.static_range(CHANNELS):
                    C_rows = C_rows + state_floats(C_ptr + base, d + c, STATES, D_STATE, ALIGNED)
            for n in tl.static_range(STATES):
                Bs = ()
                Cs = ()
                if PACKED:
                    place = bc + base * (2 * TILE) + bc_lane + n * (2 * TILE)
                    for q in tl.static_range(STEPS // QUAD):
                        if not B_CONSTANT:
                            Bs = Bs + load_floats(place + q * (BLOCKS * QUAD), QUAD)
                        if not C_CONSTANT and PHASE != 1:
                            Cs = Cs + load_floats(place + TILE + q * (BLOCKS * QUAD), QUAD)
                else:
                    for i in tl.static_range(STEPS):
                        time = (start + t0 + i).to(tl.int64) + block * STEPS
                        if not B_CONSTANT:
                            at = B_ptr + batch * b_stride_batch + time * b_stride_time + group * b_stride_group
                            Bs = Bs + (
                                tl.load(at + (base + n) * b_stride_state, mask=left > i, other=0.0).to(tl.float32),
                            )
                        if not C_CONSTANT and PHASE != 1:
                            at = C_ptr + batch * c_stride_batch + time * c_stride_time + group * c_stride_group
                            Cs = Cs + (
                                tl.load(at + (base + n) * c_stride_state, mask=left > i, other=0.0).to(tl.float32),
                            )
                ys_n = ()
                for c in tl.static_range(CHANNELS):
                    a = rates[c * STATES + n] * LOG2E
                    decays = ()
                    inputs = ()
                    h = zero
                    for i in tl.static_range(STEPS):
                        decay = ex2(dts[i * CHANNELS + c] * a)
                        if RESET:
                            decay = tl.where(keeps[i], decay, 0.0)
                        if B_CONSTANT:
                            inflow = dus[i * CHANNELS + c] * B_rows[c * STATES + n]
                        else:
                            inflow = dus[i * CHANNELS + c] * Bs[i]
                        if i == 0:
                            h = inflow
                        else:
                            h = decay * h + inflow
                        decays = decays + (decay,)
                        inputs = inputs + (inflow,)
                    own = h
                    if LEVELS > 0:
                        h = tl.where(first, states[n * CHANNELS + c], take_lane(h, previous))
                        for k in tl.static_range(LEVELS):
                            weight = tl.where(joins[k], ex2(a * spans[k * CHANNELS + c]), 0.0)
                            h = h + weight * take_lane(h, links[k])
                    else:
                        h = states[n * CHANNELS + c]
                    if checkpoints_ptr is not None:
                        mark = start + t0
                        row = batch * tl.cdiv(seqlen, CHECKPOINT_STEPS) + mark // CHECKPOINT_STEPS
                        at = checkpoints_ptr + row * (D_STATE * D_INNER)
                        place_ck = (block * STEPS // CHECKPOINT_STEPS * D_STATE + base + n) * D_INNER + c
                        due = (left > 0) & ((mark + block * STEPS) % CHECKPOINT_STEPS == 0)
                        tl.store(at + (place_ck + kept_place(d, D_INNER, HALVES)), h, mask=due)
                    if PHASE == 1:
                        h = own + tl.where(hit == 0, ex2(a * totals[c]), 0.0) * h
                    else:
                        for i in tl.static_range(STEPS):
                            h = decays[i] * h + inputs[i]
                            if C_CONSTANT:
                                ys_n = ys_n + (sums_y[i * CHANNELS + c] + C_rows[c * STATES + n] * h,)
                            else:
                                ys_n = ys_n + (sums_y[i * CHANNELS + c] + Cs[i] * h,)
                    if LEVELS > 0:
                        h = take_lane(h, last_lane)
                    left_states = left_states + (h,)
                if PHASE != 1:
                    ordered = ()
                    for i in tl.static_range(STEPS):
                        for c in tl.static_range(CHANNELS):
                            ordered = ordered + (ys_n[c * STEPS + i],)
                    sums_y = ordered
            ys = sums_y
            if IN_REGISTERS:
                carry = others + left_states
            else:
                for n in tl.static_range(STATES):
                    for c in tl.static_range(CHANNELS):
                        tl.store(first_state + (n * D_INNER + c), left_states[n * CHANNELS + c], mask=first & inside)

        if PHASE == 1:
            sums_e = ()
            for c in tl.static_range(CHANNELS):
                sums_e = sums_e + (elapsed[c] + totals[c],)
            elapsed = sums_e
            broken = tl.maximum(broken, hit)
        else:
            for i in tl.static_range(STEPS):
                valid = left > i
                out = ()
                if z_ptr is not None:
                    zs = load_channels(z_row + z_lane + i * Z_STRIDE, valid, MASKED, CHANNELS)
                    for c in tl.static_range(CHANNELS):
                        out = out + (ys[i * CHANNELS + c] * silu(zs[c]),)
                else:
                    for c in tl.static_range(CHANNELS):
                        out = out + (ys[i * CHANNELS + c],)
                store_channels(y_row + y_lane + i * D_INNER, out, valid, MASKED, CHANNELS)
        x_row += TILE * X_STRIDE
        y_row += TILE * D_INNER
        if not DT_CONSTANT:
            dt_row += TILE * DT_STRIDE
        z_row += TILE * Z_STRIDE
        if PACKED:
            bc += D_STATE * 2 * TILE

    if FETCH:  # never true: it keeps the touching loads alive
        tl.store(final_ptr + thread, touched, mask=(touched == 1.0) & (seqlen < 0))
    if PHASE == 1:
        for c in tl.static_range(CHANNELS):
            span = span_of(elapsed[c], broken, lane, LEVELS)
            tl.store(spans_ptr + (batch * splits + split) * D_INNER + d + c, span, mask=first & inside)
    if PHASE != 2:
        ending = final_ptr + (batch * D_INNER + d) * D_STATE
        if IN_REGISTERS:
            for n in tl.static_range(D_STATE):
                for c in tl.static_range(CHANNELS):
                    if PHASE == 1:
                        tl.store(slot + (n * D_INNER + c), carry[n * CHANNELS + c], mask=first & inside)
                    else:
                        tl.store(ending + (c * D_STATE + n), carry[n * CHANNELS + c], mask=first & inside)
        elif PHASE == 0:
            for m in range(D_STATE):
                for c in tl.static_range(CHANNELS):
                    kept = tl.load(slot + (m * D_INNER + c), mask=first & inside, other=0.0)
                    tl.store(ending + (c * D_STATE + m), kept, mask=first & inside)
