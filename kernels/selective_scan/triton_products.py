"""The forward scan for bf16: outer products dt x B and contractions with C on the tensor cores; see README.md."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, kept_place, silu
from kernels.selective_scan.triton_lanes import store_row
from kernels.selective_scan.triton_mma import TF32_CORRECTION, lane_of
from kernels.selective_scan.triton_product_steps import (
    BLOCK,
    advance,
    channels_of,
    contract,
    convert,
    copy_block,
    decays_of,
    get_B,
    get_C,
    get_elements,
    inflows_of,
    pick,
    pitch_of,
    slot_of,
    slots_of,
)
from kernels.selective_scan.triton_shared import await_own_copies, claim_memory, from_byte


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
    scratch_ptr,
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
    HALVES: tl.constexpr,
):
    """Scan a whole sequence (PHASE 0), or a split of it (1, 2, as in `scan_kernel`).

    Lane 4 g + q of a warp holds states 4 q to 4 q + 3 of every sixteen, of CHANNELS neighbouring channels g. Of a block's elements it
    converts those of steps q and q + 4.
    """
    GROUPS: tl.constexpr = D_STATE // 16
    AHEAD: tl.constexpr = GROUPS == 1  # more states leave no registers for it, and need it less
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
    at_kept = kept_place(d, D_INNER, HALVES)
    entering = states_ptr + (batch * tl.num_programs(2) + split) * (D_STATE * D_INNER) + 4 * quarter * D_INNER + d
    rates = ()
    h = ()
    for c in tl.static_range(CHANNELS):
        for n in tl.static_range(4 * GROUPS):
            state = (n // 4) * 16 + n % 4
            rates = rates + (tl.load(A_ptr + (d + c) * D_STATE + 4 * quarter + state) * LOG2E,)
            if PHASE == 2:
                h = h + (tl.load(entering + (state * D_INNER + c)),)
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

    # Where a lane copies from: CHANNELS times 16 bytes of a row of x, dt or z, and 8 bytes of a row of B and of C.
    corner = (tl.program_id(0) * (8 * WARPS) + (thread >> 5) * 8) * CHANNELS
    z_first = x_ptr
    if z_ptr is not None:
        z_first = z_ptr + batch * z_stride_batch
    own_at = ()
    own_rows = ()
    own_blocks = ()
    for i in tl.static_range(CHANNELS):
        chunk = tl.minimum(lane + 32 * i, 24 * CHANNELS - 1)
        tensor = chunk // (8 * CHANNELS)
        within = chunk // CHANNELS % 8
        column = corner + 8 * (chunk % CHANNELS)
        at = within.to(tl.int64) + start
        x_at = (x_ptr + batch * x_stride_batch + column + at * X_STRIDE).to(tl.int64)
        dt_at = (dt_ptr + batch * dt_stride_batch + column + at * DT_STRIDE).to(tl.int64)
        z_at = (z_first + column + at * Z_STRIDE).to(tl.int64)
        at = tl.where(tensor == 0, x_at, tl.where(tensor == 1, dt_at, z_at))
        own_at = own_at + (at.to(tl.pointer_type(tl.bfloat16)),)
        own_rows = own_rows + (tl.where(column < D_INNER, within, 1 << 30),)
        own_blocks = own_blocks + (BLOCK * tl.where(tensor == 0, X_STRIDE, tl.where(tensor == 1, DT_STRIDE, Z_STRIDE)),)
    B_at = B_ptr + batch * b_stride_batch + ((lane >> 2).to(tl.int64) + start) * B_STRIDE + 4 * quarter
    C_at = C_ptr + batch * c_stride_batch + ((lane >> 2).to(tl.int64) + start) * C_STRIDE + 4 * quarter
    if NGROUPS > 1:  # a program's channels are of one group
        group = (tl.program_id(0) * (8 * WARPS * CHANNELS) // (D_INNER // NGROUPS)).to(tl.int64)
        B_at += group * b_stride_group
        C_at += group * c_stride_group
    y_row = y_ptr + (batch * seqlen + start) * D_INNER
    y_lane = (quarter * D_INNER + d) // CHANNELS
    c_time = (g >> 1) + 4 * (g & 1)  # columns 2 q and 2 q + 1 of a product are lane q's steps, q and q + 4
    left = tl.where(inside, length - quarter, 0)

    # A warp's own ring of blocks as loaded, in shared memory.
    SLOTS: tl.constexpr = slots_of(D_STATE)
    SLOT: tl.constexpr = slot_of(CHANNELS, D_STATE)
    PITCH: tl.constexpr = pitch_of(D_STATE)
    program = (batch * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(2) + split
    memory = claim_memory(scratch_ptr + program * (WARPS * SLOTS * SLOT // 4), thread, WARPS * SLOTS * SLOT)
    memory = from_byte(memory, (thread >> 5) * (SLOTS * SLOT))
    element = (quarter * 16 + 2 * g) * CHANNELS
    B_place = 384 * CHANNELS + quarter * PITCH + 4 * g
    C_place = 384 * CHANNELS + 8 * PITCH + c_time * PITCH + 8 * quarter

    # The first block converted, those after it on their way.
    for ahead in tl.static_range(SLOTS - 1):
        copy_block(
            from_byte(memory, ahead * SLOT),
            lane,
            own_at,
            own_rows,
            B_at,
            C_at,
            length - ahead * BLOCK,
            D_STATE,
            CHANNELS,
        )
        further = ()
        for i in tl.static_range(CHANNELS):
            further = further + (own_at[i] + own_blocks[i],)
        own_at = further
        B_at += BLOCK * B_STRIDE
        C_at += BLOCK * C_STRIDE
    await_own_copies(lane, SLOTS - 2)
    now = get_elements(memory, element, 0, 2, CHANNELS)
    steps, inputs, skips = convert(now, bias, skip, left, DT_SOFTPLUS, CHANNELS, True)
    Bs = ()
    decays_next = ()
    inflows_next = ()
    if AHEAD:
        Bs = get_B(memory, B_place, D_STATE)
        decays_next = decays_of(steps, rates, sources, 0, 0, CHANNELS)
        inflows_next = inflows_of(inputs, Bs, mine, none, zero, 0, 0, CHANNELS)
    slot = tl.program_id(0) * 0
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
                    place = (4 * quarter + state) * D_INNER + at_kept
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
        # What a later block needs, over the block before this one.
        next_slot = tl.where(slot == (SLOTS - 1) * SLOT, 0, slot + SLOT)
        far_slot = tl.where(slot == 0, (SLOTS - 1) * SLOT, slot - SLOT)
        rows = length - t0 - (SLOTS - 1) * BLOCK
        copy_block(from_byte(memory, far_slot), lane, own_at, own_rows, B_at, C_at, rows, D_STATE, CHANNELS)
        await_own_copies(lane, SLOTS - 2)
        coming = get_elements(memory, element + next_slot, 0, 2, CHANNELS)
        if AHEAD:
            words = Bs
            Bs_next = get_B(memory, B_place + next_slot, D_STATE)
        else:
            words = get_B(memory, B_place + slot, D_STATE)
        Cs = ()
        if PHASE != 1:
            Cs = get_C(memory, C_place + slot, D_STATE)
        steps_next, inputs_next, skips_next = convert(
            coming, bias, skip, left - t0 - BLOCK, DT_SOFTPLUS, CHANNELS, MASKED
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
                    inputs, words, mine, none, zero, row // (2 * CHANNELS), row % (2 * CHANNELS), CHANNELS
                )
            elif row < 4 * CHANNELS - 1:
                decays_next = decays_of(
                    steps, rates, sources, (row + 1) // (2 * CHANNELS), (row + 1) % (2 * CHANNELS), CHANNELS
                )
                inflows_next = inflows_of(
                    inputs, words, mine, none, zero, (row + 1) // (2 * CHANNELS), (row + 1) % (2 * CHANNELS), CHANNELS
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
            gates = ()
            if GATED:
                gates = get_elements(memory, element + slot, 2, 1, CHANNELS)
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
        if AHEAD:
            Bs = Bs_next
        slot = next_slot
        further = ()
        for i in tl.static_range(CHANNELS):
            further = further + (own_at[i] + own_blocks[i],)
        own_at = further
        y_row += BLOCK * D_INNER
        B_at += BLOCK * B_STRIDE
        C_at += BLOCK * C_STRIDE

    for c in tl.static_range(CHANNELS):
        for n in tl.static_range(4 * GROUPS):
            state = (n // 4) * 16 + n % 4
            if PHASE == 0:
                ending = final_ptr + (batch * D_INNER + d + c) * D_STATE + 4 * quarter + state
                tl.store(ending, h[c * 4 * GROUPS + n], mask=inside)
            elif PHASE == 1:
                tl.store(entering + (state * D_INNER + c), h[c * 4 * GROUPS + n], mask=inside)
        if PHASE == 1:
            span = elapsed[c]
            span = span + lane_of(span, lane ^ 1)
            span = span + lane_of(span, lane ^ 2)
            spans = spans_ptr + (batch * tl.num_programs(2) + split) * D_INNER + d + c
            tl.store(spans, span, mask=inside & (quarter == 0))
