"""A tile's rows in the backward scan: read and made ready before its states are walked, and its gradients written after.

Tuples are in rows: element i * CHANNELS + c is step i of the thread's piece and channel c. The four inputs x, dt, z and dy come as
tuples: pointers at the sequence's first step, the thread's offsets in a tile (in elements, or in pairs of elements with PAIRS), row
strides and channel strides in elements. The tile begins at step t0, the thread's piece t_lane steps later.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LN2, ex2, kept_place, sigmoid, softplus
from kernels.selective_scan.triton_lanes import fetch, lane_down, lane_flip, lane_up, load_row, store_row

TILE = tl.constexpr(32)
STEPS = tl.constexpr(8)


@triton.jit
def mask_of(channel_mask, t, seqlen, CHANNELS: tl.constexpr, MASKED: tl.constexpr):
    """Which channels there are at step t."""
    mask = channel_mask
    if MASKED:
        mask = ()
        for c in tl.static_range(CHANNELS):
            mask = mask + (channel_mask[c] & (t < seqlen),)
    return mask


@triton.jit
def load_vectors(
    D_ptr,
    bias_ptr,
    dt_ptr,
    d,
    channel_mask,
    zero,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Return D, dt_bias (zeros for what is absent), the step size if it is constant, and zeros, for each of a thread's channels."""
    skip = ()
    bias = ()
    step_constant = ()
    zeros = ()
    for c in tl.static_range(CHANNELS):
        zeros = zeros + (zero,)
        if D_ptr is not None:
            skip = skip + (tl.load(D_ptr + d + c, mask=channel_mask[c], other=0.0),)
        else:
            skip = skip + (zero,)
        if bias_ptr is not None:
            bias = bias + (tl.load(bias_ptr + d + c, mask=channel_mask[c], other=0.0),)
        else:
            bias = bias + (zero,)
        if DT_CONSTANT:
            step = tl.load(dt_ptr + d + c, mask=channel_mask[c], other=0.0).to(tl.float32) + bias[c]
            step_constant = step_constant + (softplus(step) if SOFTPLUS else step,)
    return skip, bias, step_constant, zeros


@triton.jit
def row_inputs(
    xs,
    raw,
    gs,
    zs,
    bias,
    totals,
    mask,
    HAS_Z: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    CHANNELS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Return step sizes, these times x, and the gradient of y before its gate, from rows of x, dt, dy and z; totals with the steps."""
    grown = ()
    steps = ()
    ahead = ()
    slopes = ()
    for c in tl.static_range(CHANNELS):
        step = raw[c]
        if not DT_CONSTANT:
            step = raw[c] + bias[c]
            if SOFTPLUS:
                step = softplus(step)
        if MASKED:  # a step of zero length leaves the state as it is
            step = tl.where(mask[c], step, 0.0)
        steps = steps + (step,)
        ahead = ahead + (step * xs[c],)
        if HAS_Z:
            slopes = slopes + (gs[c] * (zs[c] * sigmoid(zs[c])),)
        else:
            slopes = slopes + (gs[c],)
        grown = grown + (totals[c] + step,)
    return steps, ahead, slopes, grown


@triton.jit
def load_tile(
    pointers,
    at,
    rows,
    channels,
    channel_mask,
    t0,
    t_lane,
    seqlen,
    bias,
    step_constant,
    zeros,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAIRS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Return the step sizes, step size times x, and the gradient of y before its gate, of all steps; and the piece's span of dt."""
    HAS_Z: tl.constexpr = pointers[2] is not None
    UNIT: tl.constexpr = 2 if PAIRS else 1
    dts = ()
    dus = ()
    dys = ()
    totals = zeros
    for i in tl.static_range(STEPS):
        mask = mask_of(channel_mask, t0 + t_lane + i, seqlen, CHANNELS, MASKED)
        xs = load_row(
            pointers[0] + t0 * rows[0], at[0] + i * (rows[0] // UNIT), mask, channels[0], CHANNELS, PAIRS, MASKED
        )
        gs = load_row(
            pointers[3] + t0 * rows[3], at[3] + i * (rows[3] // UNIT), mask, channels[3], CHANNELS, PAIRS, MASKED
        )
        if HAS_Z:
            zs = load_row(
                pointers[2] + t0 * rows[2], at[2] + i * (rows[2] // UNIT), mask, channels[2], CHANNELS, PAIRS, MASKED
            )
        if not DT_CONSTANT:
            raw = load_row(
                pointers[1] + t0 * rows[1], at[1] + i * (rows[1] // UNIT), mask, channels[1], CHANNELS, PAIRS, MASKED
            )
        if DT_CONSTANT:
            raw = step_constant
        if not HAS_Z:
            zs = zeros
        steps, ahead, slopes, totals = row_inputs(
            xs, raw, gs, zs, bias, totals, mask, HAS_Z, SOFTPLUS, DT_CONSTANT, CHANNELS, MASKED
        )
        dts = dts + steps
        dus = dus + ahead
        dys = dys + slopes
    return dts, dus, dys, totals


@triton.jit
def fetch_tile(
    pointers,
    tile,
    first,
    thread,
    ROWS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Prefetch to L2 what `tile` reads for SPAN channels from `first` on: B and C, the kept states, and rows of x, dt, z and dy."""
    fetch(pointers[0] + tile * (2 * D_STATE * TILE), 0, thread, 1, 2 * D_STATE * TILE, THREADS)
    kept = pointers[1] + tile * (D_STATE * D_INNER)
    if HALVES and SPAN == 128:
        fetch(kept + first // 2, D_INNER // 2, thread, 2 * D_STATE, SPAN // 2, THREADS)
    else:
        fetch(kept + kept_place(first, D_INNER, HALVES), D_INNER, thread, D_STATE, SPAN, THREADS)
    fetch(pointers[2] + tile * (TILE * ROWS[0]) + first, ROWS[0], thread, TILE, SPAN, THREADS)
    fetch(pointers[5] + tile * (TILE * ROWS[3]) + first, ROWS[3], thread, TILE, SPAN, THREADS)
    if pointers[4] is not None:
        fetch(pointers[4] + tile * (TILE * ROWS[2]) + first, ROWS[2], thread, TILE, SPAN, THREADS)
    if not DT_CONSTANT:
        fetch(pointers[3] + tile * (TILE * ROWS[1]) + first, ROWS[1], thread, TILE, SPAN, THREADS)


@triton.jit
def spans_between(totals, CHANNELS: tl.constexpr):
    """Spans of time for the scans over lanes, for every channel: of the piece before (after), and of the two before (after)."""
    span_up = ()
    span_down = ()
    for c in tl.static_range(CHANNELS):
        one_up = lane_up(totals[c], 4)
        one_down = lane_down(totals[c], 4)
        span_up = span_up + (one_up, one_up + lane_up(one_up, 4))
        span_down = span_down + (one_down, one_down + lane_down(one_down, 4))
    return span_up, span_down


@triton.jit
def over_pieces(x):
    """The sum of x over the four pieces."""
    x = x + lane_flip(x, 4)
    return x + lane_flip(x, 8)


@triton.jit
def row_gradients(
    i,
    xs,
    gs,
    zs,
    sums,
    dD,
    dbias,
    mask,
    HAS_Z: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CHANNELS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Return the gradients of x, dt and z at step i of a piece, and dD and dbias with the step's added; `sums` as in `finish_tile`."""
    dts = sums[0]
    dys = sums[1]
    ys = sums[2]
    s1 = sums[3]
    s2 = sums[4]
    skip = sums[5]
    dxs = ()
    ddts = ()
    dzs = ()
    dD_next = ()
    dbias_next = ()
    for c in tl.static_range(CHANNELS):
        dxs = dxs + (dys[i * CHANNELS + c] * skip[c] + s1[i * CHANNELS + c] * dts[i * CHANNELS + c],)
        change = s1[i * CHANNELS + c] * xs[c] + s2[i * CHANNELS + c] * LN2
        if SOFTPLUS:  # the sigmoid of dt before softplus, from what softplus made of it
            step = dts[i * CHANNELS + c]
            series = 0.16666667 + step * (-0.04166667 + step * 0.00833333)
            small = step * (1.0 + step * (-0.5 + step * series))
            change = change * tl.where(step < 0.0625, small, 1.0 - ex2(step * (-1.0 / LN2)))
        ddts = ddts + (change,)
        if HAS_Z:
            gate = sigmoid(zs[c])
            pre = ys[i * CHANNELS + c] + skip[c] * xs[c]
            dzs = dzs + (gs[c] * pre * gate * (1.0 + zs[c] * (1.0 - gate)),)
        dD_next = dD_next + (dD[c] + dys[i * CHANNELS + c] * xs[c],)
        if MASKED:
            dbias_next = dbias_next + (dbias[c] + tl.where(mask[c], change, 0.0),)
        else:
            dbias_next = dbias_next + (dbias[c] + change,)
    return dxs, ddts, dzs, dD_next, dbias_next


@triton.jit
def finish_tile(
    pointers,
    at,
    rows,
    channels,
    channel_mask,
    t0,
    t_lane,
    seqlen,
    sums,
    targets,
    at_out,
    dD,
    dbias,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    ROW: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAIRS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Write the gradients of x, dt and z; return dD and dbias with this tile's added.

    `sums` holds step sizes, gradients of y before the gate, the sums over states of C h, of G B and of G a h A, and D.
    `targets` are where the gradients of the sequence's first step go, rows ROW elements apart.
    """
    HAS_Z: tl.constexpr = pointers[2] is not None
    UNIT: tl.constexpr = 2 if PAIRS else 1
    skip = sums[5]
    for i in tl.static_range(STEPS):
        mask = mask_of(channel_mask, t0 + t_lane + i, seqlen, CHANNELS, MASKED)
        xs = load_row(
            pointers[0] + t0 * rows[0], at[0] + i * (rows[0] // UNIT), mask, channels[0], CHANNELS, PAIRS, MASKED
        )
        gs = load_row(
            pointers[3] + t0 * rows[3], at[3] + i * (rows[3] // UNIT), mask, channels[3], CHANNELS, PAIRS, MASKED
        )
        if HAS_Z:
            zs = load_row(
                pointers[2] + t0 * rows[2], at[2] + i * (rows[2] // UNIT), mask, channels[2], CHANNELS, PAIRS, MASKED
            )
        if not HAS_Z:
            zs = skip
        dxs, ddts, dzs, dD, dbias = row_gradients(
            i, xs, gs, zs, sums, dD, dbias, mask, HAS_Z, SOFTPLUS, CHANNELS, MASKED
        )
        row = i * (ROW // UNIT)
        store_row(targets[0] + t0 * ROW, at_out + row, dxs, mask, CHANNELS, PAIRS, MASKED)
        if not DT_CONSTANT:
            store_row(targets[1] + t0 * ROW, at_out + row, ddts, mask, CHANNELS, PAIRS, MASKED)
        if HAS_Z:
            store_row(targets[2] + t0 * ROW, at_out + row, dzs, mask, CHANNELS, PAIRS, MASKED)
    return dD, dbias
