"""One block of the backward scan with complex A, in registers: replayed forward, then backward, and summed over the program's warps.

Layout and helpers: `triton_complex`. The tuples hold two fp32 per complex number. Every tensor has one element per thread.
"""

# The bodies are Triton's language: constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E
from kernels.selective_scan.triton_complex import STEPS, decay, exchange, quads_of
from kernels.selective_scan.triton_lanes import load_scratch, store_quad, store_scratch


@triton.jit
def replay(
    steps, inflows, dys, cut, h, rates, packed, constants, thread, zero,
    PADDED: tl.constexpr, B_CONSTANT: tl.constexpr, C_CONSTANT: tl.constexpr, HAS_RESET: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Run a block forward from the states that enter it.

    Returns, flat over positions and states, (re a, im a, re a h, im a h); the lane's part of 2 Re(C h) for every position; and
    h dy (not conjugated, not doubled): for every position and state, summed over two lanes, or, if C is constant, for every
    state (re, im), summed over positions.
    """
    kept = ()
    ys = ()
    dCs = ()
    dC_sums = ()
    for _r in tl.static_range(R):
        dC_sums = dC_sums + (zero, zero)
    for i in tl.static_range(STEPS):
        quads = quads_of(packed + i * (PADDED * 4), constants, B_CONSTANT, C_CONSTANT, R)
        scaled = steps[i] * LOG2E
        total = zero
        h_on = ()
        dC_on = ()
        for r in tl.static_range(R):
            a_re, a_im = decay(steps[i], scaled, rates[r])
            h_re = h[2 * r]
            h_im = h[2 * r + 1]
            if HAS_RESET:
                h_re = tl.where(cut[i] != 0.0, 0.0, h_re)
                h_im = tl.where(cut[i] != 0.0, 0.0, h_im)
            past_re = a_re * h_re - a_im * h_im
            past_im = a_re * h_im + a_im * h_re
            re = past_re + inflows[i] * quads[r][0]
            im = past_im + inflows[i] * quads[r][1]
            kept = kept + (a_re, a_im, past_re, past_im)
            h_on = h_on + (re, im)
            total = total + re * quads[r][2]
            total = total - im * quads[r][3]
            if C_CONSTANT:
                dC_on = dC_on + (dC_sums[2 * r] + re * dys[i], dC_sums[2 * r + 1] + im * dys[i])
            else:
                dCs = dCs + (exchange(re * dys[i], im * dys[i], (thread & 16) != 0, 16),)
        h = h_on
        if C_CONSTANT:
            dC_sums = dC_on
        ys = ys + (total,)
    return kept, ys, dCs, dC_sums


@triton.jit
def reverse(
    kept, steps, inflows, dys, cut, g, dA, dCs, rates, packed, constants, thread, zero,
    PADDED: tl.constexpr, B_CONSTANT: tl.constexpr, C_CONSTANT: tl.constexpr, HAS_RESET: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Run a block backward from the gradients that enter it from the future.

    Returns these as they leave it; dA with the block's added; the lane's parts of Re(B'* G) and of Re(A'* w) for every position;
    for every position (descending) and state, the partial sum over four lanes of dB or h dy that this lane keeps; and dB, if B is
    constant, for every state, summed over positions.
    """
    s1 = ()
    s2 = ()
    sums = ()
    dB_sums = ()
    for _r in tl.static_range(R):
        dB_sums = dB_sums + (zero, zero)
    for back in tl.static_range(STEPS):
        quads = quads_of(packed + (STEPS - 1 - back) * (PADDED * 4), constants, B_CONSTANT, C_CONSTANT, R)
        dy = dys[STEPS - 1 - back]
        inflow = inflows[STEPS - 1 - back]
        step = steps[STEPS - 1 - back]
        one = zero
        two = zero
        g_on = ()
        dA_on = ()
        dB_on = ()
        for r in tl.static_range(R):
            a_re = kept[((STEPS - 1 - back) * R + r) * 4]
            a_im = kept[((STEPS - 1 - back) * R + r) * 4 + 1]
            past_re = kept[((STEPS - 1 - back) * R + r) * 4 + 2]
            past_im = kept[((STEPS - 1 - back) * R + r) * 4 + 3]
            G_re = g[2 * r] + dy * quads[r][2]
            G_im = g[2 * r + 1] - dy * quads[r][3]
            w_re = G_re * past_re + G_im * past_im
            w_im = G_im * past_re - G_re * past_im
            one = one + G_re * quads[r][0]
            one = one + G_im * quads[r][1]
            two = two + w_re * rates[r][0]
            two = two + w_im * rates[r][1]
            dA_on = dA_on + (dA[2 * r] + step * w_re, dA[2 * r + 1] + step * w_im)
            if B_CONSTANT:
                dB_on = dB_on + (dB_sums[2 * r] + inflow * G_re, dB_sums[2 * r + 1] + inflow * G_im)
            if not (B_CONSTANT and C_CONSTANT):
                dB = zero
                dC = zero
                if not B_CONSTANT:
                    dB = exchange(inflow * G_re, inflow * G_im, (thread & 16) != 0, 16)
                if not C_CONSTANT:
                    dC = dCs[(STEPS - 1 - back) * R + r]
                sums = sums + (exchange(dB, dC, (thread & 8) != 0, 8),)
            out_re = a_re * G_re + a_im * G_im
            out_im = a_re * G_im - a_im * G_re
            if HAS_RESET:
                out_re = tl.where(cut[STEPS - 1 - back] != 0.0, 0.0, out_re)
                out_im = tl.where(cut[STEPS - 1 - back] != 0.0, 0.0, out_im)
            g_on = g_on + (out_re, out_im)
        g = g_on
        dA = dA_on
        if B_CONSTANT:
            dB_sums = dB_on
        s1 = s1 + (one,)
        s2 = s2 + (two,)
    return g, dA, ascending(s1), ascending(s2), sums, dB_sums


@triton.jit
def ascending(values):
    """Eight values in the reverse order."""
    return (values[7], values[6], values[5], values[4], values[3], values[2], values[1], values[0])


@triton.jit
def add_warps(sums, scratch, part, thread, k, WARPS: tl.constexpr, R: tl.constexpr):
    """Add the warps' partial sums in the order of the warps and write them to `part`, 256 R floats as `finish_kernel` reads them.

    Scratch memory has two halves, taken in turn, so that one barrier a block is enough.
    """
    lane = thread & 31
    base = (k & 1) * (WARPS * 256 * R)
    mine = base + (thread >> 5) * (256 * R) + lane * 4
    true = lane >= 0
    for r in tl.static_range(R):
        for half in tl.static_range(2):  # descending positions: sums[0] is the last's
            quad = (
                sums[(7 - 4 * half) * R + r],
                sums[(6 - 4 * half) * R + r],
                sums[(5 - 4 * half) * R + r],
                sums[(4 - 4 * half) * R + r],
            )
            store_scratch(scratch, mine + (2 * r + half) * 128, quad, true)
    tl.debug_barrier()
    QUADS: tl.constexpr = 64 * R
    for i in tl.static_range((QUADS + 32 * WARPS - 1) // (32 * WARPS)):
        quad = thread + i * (32 * WARPS)
        source = base + tl.minimum(quad, QUADS - 1) * 4
        total = load_scratch(scratch, source)
        for w in tl.static_range(1, WARPS):
            more = load_scratch(scratch, source + w * (256 * R))
            total = (total[0] + more[0], total[1] + more[1], total[2] + more[2], total[3] + more[3])
        store_quad(part + tl.minimum(quad, QUADS - 1) * 4, total, quad < QUADS)
