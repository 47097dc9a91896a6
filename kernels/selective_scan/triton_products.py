"""The forward scan for bf16: outer products dt x B and contractions with C on the tensor cores; see README.md."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, silu
from kernels.selective_scan.triton_lanes import store_row
from kernels.selective_scan.triton_mma import TF32_CORRECTION, lane_of
from kernels.selective_scan.triton_product_steps import (
    advance,
    channels_of,
    contract,
    convert,
    decays_of,
    inflows_of,
    load_B,
    load_C,
    load_elements,
    pick,
)

BLOCK = tl.constexpr(8)
"""Steps of a block: the columns of a product."""


@triton.jit
def product_kernel(
    x_ptr,
    dt_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
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
    x_stride_batch,
    dt_stride_batch,
    z_stride_batch,
    b_stride_batch,
    c_stride_batch,
    b_stride_group,
    c_stride_group,
    X_STRIDE: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    Z_STRIDE: tl.constexpr,
    B_STRIDE: tl.constexpr,
    C_STRIDE: tl.constexpr,
    D_INNER: tl.constexpr,
    NGROUPS: tl.constexpr,
    D_STATE: tl.constexpr,
    DT_SOFTPLUS: tl.constexpr,
    PHASE: tl.constexpr,
    MASKED: tl.constexpr,
    CHANNELS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Scan a whole sequence (PHASE 0), or a split of it (1, 2, as in `scan_kernel`).

    Lane 4 g + q of a warp holds states 4 q to 4 q + 3 of every sixteen, of CHANNELS neighbouring channels g. Of a block's elements it
    converts those of steps q and q + 4. A word of a row is CHANNELS elements.
    """
    GROUPS: tl.constexpr = D_STATE // 16
    AHEAD: tl.constexpr = GROUPS == 1  # more states leave no registers for it, and need it less
    DEPTH: tl.constexpr = 3 if GROUPS == 1 else 2
    GATED: tl.constexpr = z_ptr is not None and PHASE != 1
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    start = split * split_len
    length = tl.minimum(split_len, seqlen - start)
    thread = tl.arange(0, 32 * WARPS)
    zero = tl.zeros((32 * WARPS,), tl.float32)
    none = tl.zeros((32 * WARPS,), tl.int32)
    lane = thread & 31
    quarter = lane & 3
    row0 = lane & -4
    g = lane >> 2
    channel = (tl.program_id(0) * (8 * WARPS) + (thread >> 5) * 8 + g) * CHANNELS
    inside = channel < D_INNER
    d = tl.minimum(channel, D_INNER - CHANNELS)
    slot = states_ptr + (batch * tl.num_programs(2) + split) * (D_STATE * D_INNER) + 4 * quarter * D_INNER + d
    rates = ()
    h = ()
    for c in tl.static_range(CHANNELS):
        for n in tl.static_range(4 * GROUPS):
            state = (n // 4) * 16 + n % 4
            rates = rates + (tl.load(A_ptr + (d + c) * D_STATE + 4 * quarter + state) * LOG2E,)
            if PHASE == 2:
                h = h + (tl.load(slot + (state * D_INNER + c)),)
            elif PHASE == 0 and initial_ptr is not None:
                h = h + (tl.load(initial_ptr + (batch * D_INNER + d + c) * D_STATE + 4 * quarter + state),)
            else:
                h = h + (zero,)
    skip = ()
    bias = ()
    for c in tl.static_range(CHANNELS):
        skip = skip + ((tl.load(D_ptr + d + c) if D_ptr is not None else zero),)
        bias = bias + ((tl.load(bias_ptr + d + c) if bias_ptr is not None else zero),)
    mine = ()
    sources = ()
    for s in tl.static_range(4):
        mine = mine + (quarter == s,)
        sources = sources + (row0 + s,)

    x_row = x_ptr + batch * x_stride_batch + start.to(tl.int64) * X_STRIDE
    dt_row = dt_ptr + batch * dt_stride_batch + start.to(tl.int64) * DT_STRIDE
    y_row = y_ptr + (batch * seqlen + start) * D_INNER
    z_row = x_row
    if z_ptr is not None:
        z_row = z_ptr + batch * z_stride_batch + start.to(tl.int64) * Z_STRIDE
    B_row = B_ptr + batch * b_stride_batch + start.to(tl.int64) * B_STRIDE
    C_row = C_ptr + batch * c_stride_batch + start.to(tl.int64) * C_STRIDE
    if NGROUPS > 1:  # a program's channels are of one group
        group = (tl.program_id(0) * (8 * WARPS * CHANNELS) // (D_INNER // NGROUPS)).to(tl.int64)
        B_row += group * b_stride_group
        C_row += group * c_stride_group
    x_lane = (quarter * X_STRIDE + d) // CHANNELS
    dt_lane = (quarter * DT_STRIDE + d) // CHANNELS
    z_lane = (quarter * Z_STRIDE + d) // CHANNELS
    y_lane = (quarter * D_INNER + d) // CHANNELS
    c_time = (g >> 1) + 4 * (g & 1)  # columns 2 q and 2 q + 1 of a product are lane q's steps, q and q + 4
    left = tl.where(inside, length - quarter, 0)
    last = length - 1

    # The first block converted, those after it as loaded.
    lanes = (x_lane, dt_lane, z_lane)
    now = load_elements(x_row, dt_row, z_row, lanes, left, X_STRIDE, DT_STRIDE, Z_STRIDE, GATED, CHANNELS, True)
    steps, inputs, skips, gates = convert(now, bias, skip, left, DT_SOFTPLUS, GATED, CHANNELS, True)
    coming = ()
    for stage in tl.static_range(1, DEPTH):
        coming = coming + load_elements(
            x_row + stage * BLOCK * X_STRIDE,
            dt_row + stage * BLOCK * DT_STRIDE,
            z_row + stage * BLOCK * Z_STRIDE,
            lanes,
            left - stage * BLOCK,
            X_STRIDE,
            DT_STRIDE,
            Z_STRIDE,
            GATED,
            CHANNELS,
            True,
        )
    b_lane = quarter * B_STRIDE + 2 * g
    c_lane = c_time * C_STRIDE + 4 * quarter
    Bs = load_B(B_row, b_lane, quarter, last, B_STRIDE, GROUPS, True)
    Cs = load_C(C_row, c_lane, c_time, last, C_STRIDE, GROUPS, True) if PHASE != 1 else ()
    near = BLOCK if MASKED else tl.minimum(BLOCK, length - BLOCK)
    Bs_next = load_B(B_row + near * B_STRIDE, b_lane, quarter, last - BLOCK, B_STRIDE, GROUPS, MASKED)
    decays_next = ()
    inflows_next = ()
    if AHEAD:
        decays_next = decays_of(steps, rates, sources, 0, 0, CHANNELS)
        inflows_next = inflows_of(inputs, Bs, mine, none, zero, 0, 0, CHANNELS)
    elapsed = ()
    for _ in tl.static_range(CHANNELS):
        elapsed = elapsed + (zero,)

    for block in range(tl.cdiv(length, BLOCK)):
        t0 = block * BLOCK
        if checkpoints_ptr is not None:  # noqa: SIM102 (settled at compile time, unlike the inner condition)
            if (start + t0) % 32 == 0:
                kept = (batch * tl.cdiv(seqlen, 32) + (start + t0) // 32) * (D_STATE * D_INNER)
                for n in tl.static_range(4 * GROUPS):
                    state = (n // 4) * 16 + n % 4
                    place = (4 * quarter + state) * D_INNER + d
                    pair = ()
                    for c in tl.static_range(CHANNELS):
                        pair = pair + (h[c * 4 * GROUPS + n],)
                    store_row(
                        checkpoints_ptr + kept,
                        place // CHANNELS,
                        pair,
                        (inside,),
                        CHANNELS,
                        CHANNELS == 2,
                        MASKED,
                    )
        # What later blocks need: x, dt, z of DEPTH blocks ahead, B of the one after next, C of the next.
        near = BLOCK
        second = 2 * BLOCK
        far = DEPTH * BLOCK
        if not MASKED:
            near = tl.minimum(BLOCK, length - BLOCK - t0)
            second = tl.minimum(2 * BLOCK, length - BLOCK - t0)
            far = tl.minimum(DEPTH * BLOCK, length - BLOCK - t0)
        beyond = last - t0 - 2 * BLOCK
        Bs_far = load_B(B_row + second * B_STRIDE, b_lane, quarter, beyond, B_STRIDE, GROUPS, MASKED)
        Cs_next = ()
        if PHASE != 1:
            Cs_next = load_C(C_row + near * C_STRIDE, c_lane, c_time, last - t0 - BLOCK, C_STRIDE, GROUPS, MASKED)
        coming = coming + load_elements(
            x_row + far * X_STRIDE,
            dt_row + far * DT_STRIDE,
            z_row + far * Z_STRIDE,
            lanes,
            left - t0 - DEPTH * BLOCK,
            X_STRIDE,
            DT_STRIDE,
            Z_STRIDE,
            GATED,
            CHANNELS,
            MASKED,
        )
        steps_next, inputs_next, skips_next, gates_next = convert(
            coming, bias, skip, left - t0 - BLOCK, DT_SOFTPLUS, GATED, CHANNELS, MASKED
        )

        # The block, step by step or two at a time. Decays and inflows are taken one ahead and sums picked one late, to cover
        # latencies: the compiler keeps to this order, more or less.
        sums = ()
        for _ in tl.static_range(2 * CHANNELS):
            sums = sums + (zero,)
        total = (zero, zero, zero, zero)
        if AHEAD:
            decays = decays_next
            inflows = inflows_next
        for row in tl.static_range(4 * CHANNELS):
            if not AHEAD:
                decays = decays_of(steps, rates, sources, row // (2 * CHANNELS), row % (2 * CHANNELS), CHANNELS)
                inflows = inflows_of(
                    inputs, Bs, mine, none, zero, row // (2 * CHANNELS), row % (2 * CHANNELS), CHANNELS
                )
            elif row < 4 * CHANNELS - 1:
                decays_next = decays_of(
                    steps, rates, sources, (row + 1) // (2 * CHANNELS), (row + 1) % (2 * CHANNELS), CHANNELS
                )
                inflows_next = inflows_of(
                    inputs, Bs, mine, none, zero, (row + 1) // (2 * CHANNELS), (row + 1) % (2 * CHANNELS), CHANNELS
                )
            else:
                decays_next = decays_of(steps_next, rates, sources, 0, 0, CHANNELS)
                inflows_next = inflows_of(inputs_next, Bs_next, mine, none, zero, 0, 0, CHANNELS)
            first, second_row = advance(h, decays, inflows, CHANNELS)
            if CHANNELS == 2:
                h = first + second_row
            else:
                h = second_row
            if PHASE != 1:
                if row > 0:
                    sums = pick(total, sums, mine, (row - 1) // (2 * CHANNELS), (row - 1) % (2 * CHANNELS), CHANNELS)
                total = contract(first, second_row, Cs, zero)
            if AHEAD:
                decays = decays_next
                inflows = inflows_next
        if PHASE != 1:
            sums = pick(total, sums, mine, 1, 2 * CHANNELS - 1, CHANNELS)
        if PHASE == 1:
            longer = ()
            for c in tl.static_range(CHANNELS):
                longer = longer + (elapsed[c] + steps[c] + steps[CHANNELS + c],)
            elapsed = longer
        else:
            for k in tl.static_range(2):
                out = ()
                if GATED:
                    zs = channels_of(gates[k], CHANNELS)
                for c in tl.static_range(CHANNELS):
                    value = sums[k * CHANNELS + c] * TF32_CORRECTION + skips[k * CHANNELS + c]
                    if GATED:
                        value = value * silu(zs[c])
                    out = out + (value,)
                valid = left - t0 > 4 * k
                store_row(
                    y_row,
                    y_lane + k * (4 * D_INNER // CHANNELS),
                    out,
                    (valid,),
                    CHANNELS,
                    CHANNELS == 2,
                    MASKED,
                )
        steps = steps_next
        inputs = inputs_next
        skips = skips_next
        gates = gates_next
        later = ()
        for i in tl.static_range(4 + 2 * GATED, DEPTH * (4 + 2 * GATED)):
            later = later + (coming[i],)
        coming = later
        Bs = Bs_next
        Bs_next = Bs_far
        Cs = Cs_next
        x_row += BLOCK * X_STRIDE
        dt_row += BLOCK * DT_STRIDE
        z_row += BLOCK * Z_STRIDE
        y_row += BLOCK * D_INNER
        B_row += BLOCK * B_STRIDE
        C_row += BLOCK * C_STRIDE

    for c in tl.static_range(CHANNELS):
        for n in tl.static_range(4 * GROUPS):
            state = (n // 4) * 16 + n % 4
            if PHASE == 0:
                ending = final_ptr + (batch * D_INNER + d + c) * D_STATE + 4 * quarter + state
                tl.store(ending, h[c * 4 * GROUPS + n], mask=inside)
            elif PHASE == 1:
                tl.store(slot + (state * D_INNER + c), h[c * 4 * GROUPS + n], mask=inside)
        if PHASE == 1:
            span = elapsed[c]
            span = span + lane_of(span, lane ^ 1)
            span = span + lane_of(span, lane ^ 2)
            spans = spans_ptr + (batch * tl.num_programs(2) + split) * D_INNER + d + c
            tl.store(spans, span, mask=inside & (quarter == 0))
