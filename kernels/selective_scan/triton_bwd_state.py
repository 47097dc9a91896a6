"""One state of the backward scan's tile, in registers: the steps of `scan_backward_kernel`'s inner loop.

Tuples are in rows: element i * CHANNELS + c is step i of the thread's piece and channel c. Channels go side by side through every
stage, which keeps twice the independent work in flight. Every tensor has one element per thread.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import ex2
from kernels.selective_scan.triton_lanes import (
    lane_down,
    lane_flip,
    lane_up,
    load_quad_constant,
    load_scratch,
    quad_sums,
    store_quad,
    store_scratch,
)

TILE = tl.constexpr(32)
STEPS = tl.constexpr(8)


@triton.jit
def in_every_step(row, CHANNELS: tl.constexpr):
    """The values of the channels, for every step of a piece."""
    out = ()
    for i in tl.static_range(STEPS * CHANNELS):
        out = out + (row[i % CHANNELS],)
    return out


@triton.jit
def in_every_channel(pointers, CHANNELS: tl.constexpr):
    """The values of a piece's steps, read from adjacent fp32, for every channel."""
    steps = load_quad_constant(pointers) + load_quad_constant(pointers + 4)
    out = ()
    for i in tl.static_range(STEPS * CHANNELS):
        out = out + (steps[i // CHANNELS],)
    return out


@triton.jit
def enter_pieces(a, u, q, h_first, g_last, rates, span_up, span_down, opens, piece, CHANNELS: tl.constexpr):
    """The state that enters each piece from the past and the gradient that enters it from the future.

    h_first enters the tile's first piece, g_last its last. `opens` are exponents that close a lane's way past the tile's ends.
    """
    # Each piece on its own: its last state from zero, and the gradient that leaves it towards the past.
    h = ()
    g = ()
    for c in tl.static_range(CHANNELS):
        h = h + (u[c],)
        g = g + (q[(STEPS - 1) * CHANNELS + c],)
    for i in tl.static_range(1, STEPS):
        h_on = ()
        g_on = ()
        for c in tl.static_range(CHANNELS):
            h_on = h_on + (a[i * CHANNELS + c] * h[c] + u[i * CHANNELS + c],)
            g_on = g_on + (a[(STEPS - i) * CHANNELS + c] * g[c] + q[(STEPS - 1 - i) * CHANNELS + c],)
        h = h_on
        g = g_on
    # Join the four pieces over the lanes: by one, then by two. A decay over pieces is one exponential of their span of dt.
    h_on = ()
    g_on = ()
    for c in tl.static_range(CHANNELS):
        h_on = h_on + (tl.where(piece == 0, h_first[c], lane_up(h[c], 4)),)
        g_on = g_on + (tl.where(piece == 3, g_last[c], lane_down(g[c] * a[c], 4)),)
    h = ()
    g = ()
    for c in tl.static_range(CHANNELS):
        h = h + (h_on[c] + ex2(rates[c] * span_up[2 * c] + opens[0]) * lane_up(h_on[c], 4),)
        g = g + (g_on[c] + ex2(rates[c] * span_down[2 * c] + opens[2]) * lane_down(g_on[c], 4),)
    h_on = ()
    g_on = ()
    for c in tl.static_range(CHANNELS):
        h_on = h_on + (h[c] + ex2(rates[c] * span_up[2 * c + 1] + opens[1]) * lane_up(h[c], 8),)
        g_on = g_on + (g[c] + ex2(rates[c] * span_down[2 * c + 1] + opens[3]) * lane_down(g[c], 8),)
    return h_on, g_on


@triton.jit
def replay_states(a, u, h, ys, dys, Cs, zero, HAS_Z: tl.constexpr, C_CONSTANT: tl.constexpr, CHANNELS: tl.constexpr):
    """Run the piece forward from the state h that enters it.

    Returns a[i] h[i - 1] of every step, which the gradients of A and dt need: h[i] - u[i] would lose it under a strong decay; ys
    with C h added; and the gradient of C, summed over channels per step, or over steps per channel if C is constant.
    """
    kept = ()
    ys_on = ()
    dCs = ()
    dC_sums = ()
    for _c in tl.static_range(CHANNELS):
        dC_sums = dC_sums + (zero,)
    for i in tl.static_range(STEPS):
        h_on = ()
        dC_on = ()
        dC_i = zero
        for c in tl.static_range(CHANNELS):
            past = a[i * CHANNELS + c] * h[c]
            state = past + u[i * CHANNELS + c]
            kept = kept + (past,)
            h_on = h_on + (state,)
            if HAS_Z:
                ys_on = ys_on + (ys[i * CHANNELS + c] + state * Cs[i * CHANNELS + c],)
            if C_CONSTANT:
                dC_on = dC_on + (dC_sums[c] + state * dys[i * CHANNELS + c],)
            else:
                dC_i += state * dys[i * CHANNELS + c]
        h = h_on
        dCs = dCs + (dC_i,)
        if C_CONSTANT:
            dC_sums = dC_on
    if HAS_Z:
        ys = ys_on
    return kept, ys, dCs, dC_sums


@triton.jit
def replay_gradients(
    a, q, g, kept, s1, s2, dts, dus, Bs, rates, zero, B_CONSTANT: tl.constexpr, CHANNELS: tl.constexpr
):
    """Run the piece backward from the gradient g that enters it from the future.

    Returns the gradient that leaves it; s1 and s2, the sums over states of G B and of G a h A, with this state's added; the
    gradient of B, as that of C in `replay_states` but in descending time; and the piece's gradient of A.
    """
    s1_on = ()
    s2_on = ()
    dBs = ()
    dA_sums = ()
    dB_sums = ()
    for _c in tl.static_range(CHANNELS):
        dA_sums = dA_sums + (zero,)
        dB_sums = dB_sums + (zero,)
    for back in tl.static_range(STEPS):
        g_on = ()
        dA_on = ()
        dB_on = ()
        dB_i = zero
        for c in tl.static_range(CHANNELS):
            G = q[(STEPS - 1 - back) * CHANNELS + c] + g[c]  # the gradient of the state
            r = G * kept[(STEPS - 1 - back) * CHANNELS + c]
            dA_on = dA_on + (dA_sums[c] + r * dts[(STEPS - 1 - back) * CHANNELS + c],)
            s1_on = s1_on + (s1[(STEPS - 1 - back) * CHANNELS + c] + G * Bs[(STEPS - 1 - back) * CHANNELS + c],)
            s2_on = s2_on + (s2[(STEPS - 1 - back) * CHANNELS + c] + r * rates[c],)
            if B_CONSTANT:
                dB_on = dB_on + (dB_sums[c] + G * dus[(STEPS - 1 - back) * CHANNELS + c],)
            else:
                dB_i += G * dus[(STEPS - 1 - back) * CHANNELS + c]
            g_on = g_on + (G * a[(STEPS - 1 - back) * CHANNELS + c],)
        g = g_on
        dBs = dBs + (dB_i,)
        dA_sums = dA_on
        if B_CONSTANT:
            dB_sums = dB_on
    return g, back_in_rows(s1_on, CHANNELS), back_in_rows(s2_on, CHANNELS), dBs, dA_sums, dB_sums


@triton.jit
def back_in_rows(values, CHANNELS: tl.constexpr):
    """Reorder a tuple accumulated in descending time, channels innermost, to ascending time."""
    out = ()
    for i in tl.static_range(STEPS):
        for c in tl.static_range(CHANNELS):
            out = out + (values[(STEPS - 1 - i) * CHANNELS + c],)
    return out


@triton.jit
def leave_sums(scratch, place, dBs, dCs, lane, EXACT: tl.constexpr):
    """Put a state's gradients of B (in descending time) and C at the piece's steps, summed over the warp's channels, into `scratch`."""
    values = ()
    for i in tl.static_range(STEPS):
        values = values + (dBs[STEPS - 1 - i],)
    for i in tl.static_range(STEPS):
        values = values + (dCs[i],)
    quad = quad_sums(values, lane, EXACT)
    both = ()
    for i in tl.static_range(4):
        both = both + (quad[i] + lane_flip(quad[i], 16),)
    store_scratch(scratch, place, both, lane < 16)


@triton.jit
def add_partials(
    scratch, part, row, thread, first_state, D_STATE: tl.constexpr, BLOCK: tl.constexpr, WARPS: tl.constexpr
):
    """Sum what the warps of this program left in `scratch`, (WARPS, 2, BLOCK, TILE), in the order of the warps, into `part`.

    A state's 32 sums of dB and then of dC begin `row` fp32 after those of the state before.
    """
    QUADS: tl.constexpr = 2 * BLOCK * TILE // 4
    for i in tl.static_range((QUADS + 32 * WARPS - 1) // (32 * WARPS)):
        quad = thread + i * (32 * WARPS)
        inside = quad < QUADS
        source = tl.minimum(quad, QUADS - 1)
        total = load_scratch(scratch, source * 4)
        for w in tl.static_range(1, WARPS):
            more = load_scratch(scratch, w * (2 * BLOCK * TILE) + source * 4)
            total = (total[0] + more[0], total[1] + more[1], total[2] + more[2], total[3] + more[3])
        kind = source // (BLOCK * (TILE // 4))
        state = first_state + source // (TILE // 4) % BLOCK
        target = part + state * row + kind * TILE + source % (TILE // 4) * 4
        store_quad(target, total, inside & (state < D_STATE))
