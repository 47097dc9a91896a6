"""The forward scan for many channels in any dtype; see README.md.

`lean_kernel` serves the common case (selective dt, B and C, no reset) where batch x d_inner fills the GPU: lanes share
the states of a channel instead of the time steps, so nothing is scanned twice. Everything it reads is requested one or two
blocks ahead.
"""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import (
    LOG2E,
    ex2,
    exchange_add,
    lane_grid,
    load_channels,
    load_floats,
    silu,
    softplus,
    store_channels,
    take_lane,
)


@triton.jit
def load_raw(pointers, mask, MASKED: tl.constexpr, CHANNELS: tl.constexpr):
    """Load CHANNELS (1 or 2) adjacent channels as they are: a tuple, zeros where masked."""
    if CHANNELS == 1:
        if MASKED:
            values = (tl.load(pointers, mask=mask, other=0.0),)
        else:
            values = (tl.load(pointers),)
    else:
        both = pointers[:, :, None] + tl.arange(0, 2)[None, None, :]
        if MASKED:
            values = tl.split(tl.load(both, mask=mask[:, :, None], other=0.0))
        else:
            values = tl.split(tl.load(both))
    return values


@triton.jit
def lean_kernel(
    x_ptr,
    dt_ptr,
    A_ptr,
    packed_ptr,
    D_ptr,
    z_ptr,
    bias_ptr,
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
    X_STRIDE: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    Z_STRIDE: tl.constexpr,
    D_INNER: tl.constexpr,
    NGROUPS: tl.constexpr,
    D_STATE: tl.constexpr,
    DT_SOFTPLUS: tl.constexpr,
    PHASE: tl.constexpr,
    MASKED: tl.constexpr,
    TOUCH: tl.constexpr,
    SHARES: tl.constexpr,
    ROUNDS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Scan a whole sequence (PHASE 0), or a split of it (1, 2, as in `scan_kernel`).

    SHARES lanes hold D_STATE / SHARES states each of CHANNELS channels; a block is ROUNDS * SHARES steps.

    Program ids are (channel block, batch, split); lane = share + SHARES * channel group. Of a block's elements, lane `share` converts
    (softplus, gate, skip) those of steps share, share + SHARES, ...; step sizes go to the other lanes by shuffles, and the
    partial sums over the states come back by halving exchanges.
    """
    STATES: tl.constexpr = D_STATE // SHARES
    BLOCK: tl.constexpr = ROUNDS * SHARES
    LEVELS: tl.constexpr = (SHARES > 1) + (SHARES > 2) + (SHARES > 4) + (SHARES > 8) + (SHARES > 16)
    SECTORS: tl.constexpr = (BLOCK * 2 * D_STATE + 7) // 8
    GATED: tl.constexpr = z_ptr is not None and PHASE != 1
    TOUCHES: tl.constexpr = (SECTORS + 32 * WARPS - 1) // (32 * WARPS)
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    start = split * split_len
    length = tl.minimum(split_len, seqlen - start)
    lane, warp, zero = lane_grid(WARPS)
    share = lane % SHARES
    row0 = lane - share
    channel = ((tl.program_id(0) * WARPS + warp) * (32 // SHARES) + lane // SHARES) * CHANNELS
    inside = channel < D_INNER
    d = tl.minimum(channel, D_INNER - CHANNELS)
    slot = states_ptr + (batch * tl.num_programs(2) + split) * (D_STATE * D_INNER) + share * (STATES * D_INNER) + d
    rates = ()
    h = ()
    for c in tl.static_range(CHANNELS):
        for n in tl.static_range(STATES):
            rates = rates + (tl.load(A_ptr + (d + c) * D_STATE + share * STATES + n) * LOG2E,)
            if PHASE == 2:
                h = h + (tl.load(slot + (n * D_INNER + c)),)
            elif PHASE == 0 and initial_ptr is not None:
                h = h + (tl.load(initial_ptr + (batch * D_INNER + d + c) * D_STATE + share * STATES + n),)
            else:
                h = h + (zero,)
    skip = ()
    bias = ()
    for c in tl.static_range(CHANNELS):
        skip = skip + ((tl.load(D_ptr + d + c) if D_ptr is not None else zero),)
        bias = bias + ((tl.load(bias_ptr + d + c) if bias_ptr is not None else zero),)
    sources = ()
    for i in tl.static_range(BLOCK):
        sources = sources + (row0 + i % SHARES,)
    x_row = x_ptr + batch * x_stride_batch + start.to(tl.int64) * X_STRIDE
    dt_row = dt_ptr + batch * dt_stride_batch + start.to(tl.int64) * DT_STRIDE
    y_row = y_ptr + (batch * seqlen + start) * D_INNER
    z_row = x_row
    if z_ptr is not None:
        z_row = z_ptr + batch * z_stride_batch + start.to(tl.int64) * Z_STRIDE
    x_lane = share * X_STRIDE + d
    dt_lane = share * DT_STRIDE + d
    z_lane = share * Z_STRIDE + d
    y_lane = share * D_INNER + d
    run = batch  # the run of packed B and C: a program's channels are of one group
    if NGROUPS > 1:
        run = batch * NGROUPS + tl.program_id(0) * (32 // SHARES * WARPS * CHANNELS) // (D_INNER // NGROUPS)
    bc = packed_ptr + (run * packed_tiles + start // BLOCK) * (BLOCK * 2 * D_STATE) + share * (2 * STATES)
    left = tl.where(inside, length - share, 0)
    checkpoint = share * (STATES * D_INNER) + d
    thread = warp * 32 + lane

    # Two blocks before the loop: the first converted, the second as loaded.
    dts = ()
    dus = ()
    skips = ()
    gates = ()
    for k in tl.static_range(ROUNDS):
        valid = left > k * SHARES
        xs = load_channels(x_row + x_lane + k * SHARES * X_STRIDE, valid, True, CHANNELS)
        raw = load_channels(dt_row + dt_lane + k * SHARES * DT_STRIDE, valid, True, CHANNELS)
        if GATED:
            gates = gates + load_raw(z_row + z_lane + k * SHARES * Z_STRIDE, valid, True, CHANNELS)
        for c in tl.static_range(CHANNELS):
            step = raw[c] + bias[c]
            if DT_SOFTPLUS:
                step = softplus(step)
            step = tl.where(valid, step, 0.0)
            for i in tl.static_range(SHARES):
                dts = dts + (take_lane(step, sources[i]),)
                dus = dus + (take_lane(step * xs[c], sources[i]),)
            skips = skips + (skip[c] * xs[c],)
    next_x = ()
    next_dt = ()
    next_z = ()
    for k in tl.static_range(ROUNDS):
        valid = left > BLOCK + k * SHARES
        next_x = next_x + load_raw(x_row + x_lane + (BLOCK + k * SHARES) * X_STRIDE, valid, True, CHANNELS)
        next_dt = next_dt + load_raw(dt_row + dt_lane + (BLOCK + k * SHARES) * DT_STRIDE, valid, True, CHANNELS)
        if GATED:
            next_z = next_z + load_raw(z_row + z_lane + (BLOCK + k * SHARES) * Z_STRIDE, valid, True, CHANNELS)
    current = ()
    for i in tl.static_range(BLOCK):
        current = current + load_floats(bc + i * (2 * D_STATE), 2 * STATES)
    touched = zero
    pending = ()
    for _ in tl.static_range(TOUCHES):
        pending = pending + (zero,)

    elapsed = ()
    for _ in tl.static_range(CHANNELS):
        elapsed = elapsed + (zero,)

    for block in range(tl.cdiv(length, BLOCK)):
        t0 = block * BLOCK
        if TOUCH:  # B and C of the block after next into L1
            fresh = ()
            for i in tl.static_range(TOUCHES):
                touched = touched + pending[i]
                sector = (thread + i * 32 * WARPS) % SECTORS
                fresh = fresh + (tl.load(bc - share * (2 * STATES) + (2 * BLOCK * 2 * D_STATE + sector * 8)),)
            pending = fresh
        if checkpoints_ptr is not None:  # noqa: SIM102 (settled at compile time, unlike the inner condition)
            if (start + t0) % 32 == 0:
                kept = (batch * tl.cdiv(seqlen, 32) + (start + t0) // 32) * (D_STATE * D_INNER)
                for n in tl.static_range(STATES):
                    pair = ()
                    for c in tl.static_range(CHANNELS):
                        pair = pair + (h[c * STATES + n],)
                    store_channels(checkpoints_ptr + kept + checkpoint + n * D_INNER, pair, inside, MASKED, CHANNELS)
        far_x = ()
        far_dt = ()
        far_z = ()
        if MASKED:
            shift = 2 * BLOCK
        else:
            shift = tl.minimum(2 * BLOCK, length - BLOCK - t0)
        for k in tl.static_range(ROUNDS):
            valid = left - t0 > 2 * BLOCK + k * SHARES
            far_x = far_x + load_raw(x_row + shift * X_STRIDE + x_lane + k * SHARES * X_STRIDE, valid, MASKED, CHANNELS)
            far_dt = far_dt + load_raw(
                dt_row + shift * DT_STRIDE + dt_lane + k * SHARES * DT_STRIDE, valid, MASKED, CHANNELS
            )
            if GATED:
                far_z = far_z + load_raw(
                    z_row + shift * Z_STRIDE + z_lane + k * SHARES * Z_STRIDE, valid, MASKED, CHANNELS
                )
        following = ()
        for i in tl.static_range(BLOCK):
            following = following + load_floats(bc + (BLOCK + i) * (2 * D_STATE), 2 * STATES)
        dts_next = ()
        dus_next = ()
        skips_next = ()
        for k in tl.static_range(ROUNDS):
            for c in tl.static_range(CHANNELS):
                ahead = next_dt[k * CHANNELS + c].to(tl.float32) + bias[c]
                value = next_x[k * CHANNELS + c].to(tl.float32)
                if DT_SOFTPLUS:
                    ahead = softplus(ahead)
                if MASKED:
                    ahead = tl.where(left - t0 > BLOCK + k * SHARES, ahead, 0.0)
                inflow = ahead * value
                for i in tl.static_range(SHARES):
                    dts_next = dts_next + (take_lane(ahead, sources[i]),)
                    dus_next = dus_next + (take_lane(inflow, sources[i]),)
                skips_next = skips_next + (skip[c] * value,)
        for k in tl.static_range(ROUNDS):
            partial = ()
            for i in tl.static_range(SHARES):
                entered = h
                h = ()
                for c in tl.static_range(CHANNELS):
                    step = dts[(k * CHANNELS + c) * SHARES + i]
                    inflow = dus[(k * CHANNELS + c) * SHARES + i]
                    total = zero
                    for n in tl.static_range(STATES):
                        value = (
                            ex2(step * rates[c * STATES + n]) * entered[c * STATES + n]
                            + inflow * current[(k * SHARES + i) * 2 * STATES + n]
                        )
                        if PHASE == 1:
                            total = zero
                        elif n == 0:
                            total = value * current[(k * SHARES + i) * 2 * STATES + STATES]
                        else:
                            total += value * current[((k * SHARES + i) * 2 + 1) * STATES + n]
                        h = h + (value,)
                    partial = partial + (total,)
            out = ()
            for c in tl.static_range(CHANNELS if PHASE != 1 else 0):
                sums = ()
                for i in tl.static_range(SHARES):
                    sums = sums + (partial[i * CHANNELS + c],)
                for level in tl.static_range(LEVELS):
                    halves = ()
                    for i in tl.static_range(SHARES >> (level + 1)):
                        halves = halves + (
                            exchange_add(sums[i], sums[i + (SHARES >> (level + 1))], lane, SHARES >> (level + 1)),
                        )
                    sums = halves
                total = sums[0] + skips[k * CHANNELS + c]
                if GATED:
                    total = total * silu(gates[k * CHANNELS + c].to(tl.float32))
                out = out + (total,)
            if PHASE != 1:
                store_channels(y_row + y_lane + k * SHARES * D_INNER, out, left - t0 > k * SHARES, MASKED, CHANNELS)
        if PHASE == 1:
            longer = ()
            for c in tl.static_range(CHANNELS):
                span = elapsed[c]
                for k in tl.static_range(ROUNDS):
                    for i in tl.static_range(SHARES):
                        span = span + dts[(k * CHANNELS + c) * SHARES + i]
                longer = longer + (span,)
            elapsed = longer
        dts = dts_next
        dus = dus_next
        skips = skips_next
        if GATED:
            gates = next_z
            next_z = far_z
        next_x = far_x
        next_dt = far_dt
        current = following
        x_row += BLOCK * X_STRIDE
        dt_row += BLOCK * DT_STRIDE
        z_row += BLOCK * Z_STRIDE
        y_row += BLOCK * D_INNER
        bc += BLOCK * 2 * D_STATE
    for c in tl.static_range(CHANNELS):
        for n in tl.static_range(STATES):
            if PHASE == 0:
                ending = final_ptr + (batch * D_INNER + d + c) * D_STATE + share * STATES + n
                tl.store(ending, h[c * STATES + n], mask=inside)
            elif PHASE == 1:
                tl.store(slot + (n * D_INNER + c), h[c * STATES + n], mask=inside)
        if PHASE == 1:
            spans = spans_ptr + (batch * tl.num_programs(2) + split) * D_INNER + d + c
            tl.store(spans, elapsed[c], mask=inside & (share == 0))
    if TOUCH:  # never true: it keeps the touching loads alive
        tl.store(final_ptr + thread, touched, mask=(touched == 1.0) & (seqlen < 0))
