"""The forward scan where channels are few: the warps of a program share the states of its channels; see README.md."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, ex2, silu, softplus_powers
from kernels.selective_scan.triton_mma import TF32_CORRECTION, bits, dropped, multiply_add, spread
from kernels.selective_scan.triton_shared import (
    await_copies,
    claim_memory,
    commit_copies,
    copy_async,
    get_half,
    get_pair,
    get_quad,
    put,
    put_pair,
    put_quad,
)

TEAM = tl.constexpr(4)
"""Warps that share the states of a channel: 4 states each."""

SPAN = tl.constexpr(32)
"""Steps between barriers; each warp converts 8 of them."""

MEMORY = tl.constexpr(11360)
"""Floats of shared memory of a program."""

SLOTS = tl.constexpr(6)
"""Spans that are in shared memory as they were loaded: the one before, for its gate, this one, and four to come."""

SLOT = tl.constexpr(3584)
"""Bytes of such a span: 32 rows of 8 channels of x, dt and z, then of 16 states of B and C."""

PITCH = tl.constexpr(36)
"""Floats between the rows of two channels in shared memory: no two of eight rows meet in a bank."""


@triton.jit
def put_operand(memory, place, inflow, upper):
    """Leave a lane's part of the left operand of an outer product: steps 0 and 1 of four in row g, 2 and 3 in row g + 8."""
    rest = dropped(inflow).to(tl.float32, bitcast=True)
    put_quad(
        memory,
        place,
        tl.where(upper, 0.0, inflow),
        tl.where(upper, inflow, 0.0),
        tl.where(upper, 0.0, rest),
        tl.where(upper, rest, 0.0),
    )


@triton.jit
def decay_four(steps, rate):
    """The decays of four steps."""
    return ex2(steps[0] * rate), ex2(steps[1] * rate), ex2(steps[2] * rate), ex2(steps[3] * rate)


@triton.jit
def pick(totals, upper, k: tl.constexpr):
    """Of a product that holds the sums of four steps, the one that is the lane's: columns 2 q + k of a row are step q's."""
    return tl.where(upper, totals[2 + k], totals[k])


@triton.jit
def outer(left, B_bits, zero):
    """dt x B of four steps of a lane's channel and state, from four operands and the fp32 bits of a lane's B."""
    operand = (bits(left[0]), bits(left[1]), bits(left[2]), bits(left[3]))
    return multiply_add(operand, (B_bits, B_bits), (zero, zero, zero, zero))


@triton.jit
def collect(memory, place, warp):
    """The sums over all warps' states for the eight steps of a span that this warp finishes."""
    a = get_pair(memory, place + warp * 64)
    b = get_pair(memory, place + 256 + warp * 64)
    c = get_pair(memory, place + 512 + warp * 64)
    d = get_pair(memory, place + 768 + warp * 64)
    return (a[0] + b[0]) + (c[0] + d[0]), (a[1] + b[1]) + (c[1] + d[1])


@triton.jit
def finish(y_at, sums, skips, gates, left, D_INNER: tl.constexpr, GATED: tl.constexpr):
    """Add the skip, gate and store the outputs of two steps, four apart, of those before `left`."""
    for k in tl.static_range(2):
        value = sums[k] * TF32_CORRECTION + skips[k]
        if GATED:
            value = value * silu(brain_float(gates[k]))
        tl.store(y_at + k * (4 * D_INNER), value.to(y_at.dtype.element_ty), mask=left > 4 * k)


@triton.jit
def convert(dt_half, x_half, bias, left, DT_SOFTPLUS: tl.constexpr, MASKED: tl.constexpr):
    """The step size and x of an element; a step of zero from `left` on."""
    step = brain_float(dt_half) + bias
    if DT_SOFTPLUS:
        step = softplus_powers(step)
    if MASKED:
        step = tl.where(left > 0, step, 0.0)
    return step, brain_float(x_half)


@triton.jit
def brain_float(half):
    """The fp32 that a bf16 in the low half of an int32 is."""
    return (half << 16).to(tl.float32, bitcast=True)


@triton.jit
def get_two(memory, place):
    """A lane's elements of a span as loaded, at two steps four apart, as bits."""
    return get_half(memory, place), get_half(memory, place + 64)


@triton.jit
def copy_span(memory, slot, thread, wide_at, B_at, C_at, left):
    """Begin to copy a span of which `left` rows are left: a thread a row of x, dt or z, and a quarter of a row of B and of C."""
    row = thread & 31
    tensor = tl.minimum(thread >> 5, 2)
    copy_async(memory, slot + tensor * 512 + row * 16, wide_at, 16, left > row)
    present = left > (thread >> 2)
    copy_async(memory, slot + 1536 + thread * 8, B_at, 8, present)
    copy_async(memory, slot + 2560 + thread * 8, C_at, 8, present)
    commit_copies(thread)


@triton.jit
def after(slot):
    """The slot of the span that follows."""
    return tl.where(slot == (SLOTS - 1) * SLOT, 0, slot + SLOT)


@triton.jit
def team_kernel(
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
    scratch_ptr,
    seqlen,
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
    DT_SOFTPLUS: tl.constexpr,
    MASKED: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Scan a whole sequence with 16 states, for 8 channels.

    Lane 4 g + q of warp w holds state 4 w + q of channel g. It converts the elements of steps 8 w + q and 8 w + q + 4 of a span,
    and finishes them once the warps' partial sums over their states have met in shared memory, a span later.
    """
    D_STATE: tl.constexpr = 16
    GATED: tl.constexpr = z_ptr is not None
    batch = tl.program_id(1).to(tl.int64)
    thread = tl.arange(0, 32 * TEAM)
    zero = tl.zeros((32 * TEAM,), tl.float32)
    lane = thread & 31
    quarter = lane & 3
    g = lane >> 2
    warp = thread >> 5
    d = tl.program_id(0) * 8 + g
    state = 4 * warp + quarter
    rate = tl.load(A_ptr + d * D_STATE + state) * LOG2E
    if initial_ptr is not None:
        h = tl.load(initial_ptr + (batch * D_INNER + d) * D_STATE + state)
    else:
        h = zero
    skip = tl.load(D_ptr + d) if D_ptr is not None else zero
    bias = tl.load(bias_ptr + d) if bias_ptr is not None else zero
    upper = quarter >= 2
    # How a bf16 becomes the bits of an fp32, or nothing, in the operands of products: B in the lanes of its step, C in the half of
    # the k dimension that holds its step's states.
    B_spread = tl.where((quarter & 1) == (g & 1), 0x1044, 0x4444)
    C_first = tl.where((g & 2) == 0, 0x1044, 0x4444)
    C_second = tl.where((g & 2) == 0, 0x4444, 0x1044)

    # Shared memory: three times step sizes by channel and left operands by four steps and lane, twice partial sums by warp, eight
    # steps and lane; then spans as loaded.
    memory = claim_memory(scratch_ptr + (batch * tl.num_programs(0) + tl.program_id(0)) * MEMORY, thread, 4 * MEMORY)
    own_step = g * PITCH + 8 * warp + quarter
    own_operand = 8 * PITCH + 256 * warp + 4 * lane
    BUFFER: tl.constexpr = 8 * PITCH + 8 * 128
    PARTS: tl.constexpr = TEAM * 4 * 64
    parts = 3 * BUFFER + 2 * lane
    RAW: tl.constexpr = 4 * (3 * BUFFER + 2 * PARTS)

    first = 8 * warp + quarter
    c_time = (g >> 1) + 4 * (g & 1)  # columns 2 q and 2 q + 1 of a product are lane q's steps, q and q + 4
    element = RAW + first * 16 + 2 * g
    B_place = RAW + 1536 + quarter * 32 + 2 * (4 * warp + (g >> 1))
    C_place = RAW + 2560 + c_time * 32 + 2 * state
    y_at = y_ptr + batch * seqlen * D_INNER + first * D_INNER + d
    left = seqlen - first

    # Where a thread copies from: a row of x, dt or z, and a quarter of a row of B and C.
    row = (thread & 31).to(tl.int64)
    corner = tl.program_id(0) * 8
    z_first = x_ptr
    if z_ptr is not None:
        z_first = z_ptr + batch * z_stride_batch
    wide_at = tl.where(
        warp == 0,
        (x_ptr + batch * x_stride_batch + corner + row * X_STRIDE).to(tl.int64),
        tl.where(
            warp == 1,
            (dt_ptr + batch * dt_stride_batch + corner + row * DT_STRIDE).to(tl.int64),
            (z_first + corner + row * Z_STRIDE).to(tl.int64),
        ),
    ).to(tl.pointer_type(tl.bfloat16))
    wide_span = SPAN * tl.where(warp == 0, X_STRIDE, tl.where(warp == 1, DT_STRIDE, Z_STRIDE))
    B_at = B_ptr + batch * b_stride_batch + (thread >> 2) * B_STRIDE + 4 * (thread & 3)
    C_at = C_ptr + batch * c_stride_batch + (thread >> 2) * C_STRIDE + 4 * (thread & 3)
    if NGROUPS > 1:  # a program's channels are of one group
        group = (tl.program_id(0) * 8 // (D_INNER // NGROUPS)).to(tl.int64)
        B_at += group * b_stride_group
        C_at += group * c_stride_group

    # Four spans on their way, the first two of them converted, and the first four steps prepared.
    for ahead in tl.static_range(4):
        copy_span(memory, RAW + ahead * SLOT, thread, wide_at, B_at, C_at, seqlen - ahead * SPAN)
        wide_at += wide_span
        B_at += SPAN * B_STRIDE
        C_at += SPAN * C_STRIDE
    await_copies(thread)
    tl.debug_barrier()
    skips = ()
    skips_next = ()
    for ahead in tl.static_range(2):
        x_now = get_two(memory, element + ahead * SLOT)
        dt_now = get_two(memory, element + 512 + ahead * SLOT)
        for k in tl.static_range(2):
            step, value = convert(dt_now[k], x_now[k], bias, left - ahead * SPAN - 4 * k, DT_SOFTPLUS, True)
            put(memory, own_step + ahead * BUFFER + 4 * k, step)
            put_operand(memory, own_operand + ahead * BUFFER + 128 * k, step * value, upper)
            if ahead == 0:
                skips = skips + (skip * value,)
            else:
                skips_next = skips_next + (skip * value,)
    # Not the name of another: a loop does not carry what has become another's value.
    skips_before = (zero, zero)
    here = tl.program_id(0) * 0  # the slot of a span
    buffer = tl.program_id(0) * 0  # and of its converted elements
    tl.debug_barrier()
    reading = g * PITCH
    operands = 8 * PITCH + 4 * lane
    terms = outer(get_quad(memory, operands), spread(get_half(memory, B_place), B_spread), zero)
    decays = decay_four(get_quad(memory, reading), rate)
    steps_ahead = get_quad(memory, reading + 4)
    left_far = get_quad(memory, operands + 128)
    B_far = get_half(memory, B_place + 128)
    C_half = get_half(memory, C_place)

    for span in tl.range(tl.cdiv(seqlen, SPAN), loop_unroll_factor=UNROLL):
        t0 = span * SPAN
        turn = span & 1
        if checkpoints_ptr is not None:
            at = checkpoints_ptr + (batch * tl.cdiv(seqlen, SPAN) + span) * (D_STATE * D_INNER) + state * D_INNER + d
            tl.store(at, h)
        # What a later span needs, over the span before the last.
        next_slot = after(here)
        third_slot = after(next_slot)
        far_slot = after(after(third_slot))
        before = after(far_slot)
        copy_span(memory, RAW + far_slot, thread, wide_at, B_at, C_at, seqlen - t0 - 4 * SPAN)

        # The span before, whose partial sums have met.
        sums = collect(memory, parts + (1 - turn) * PARTS, warp)
        left_before = tl.where(span > 0, left - t0 + SPAN, 0)
        gates = (0, 0)
        if GATED:
            gates = get_two(memory, element + 1024 + before)
        finish(y_at - SPAN * D_INNER, sums, skips_before, gates, left_before, D_INNER, GATED)

        # The elements of the span after the next, for every warp.
        next_buffer = tl.where(buffer == 2 * BUFFER, 0, buffer + BUFFER)
        third_buffer = tl.where(next_buffer == 2 * BUFFER, 0, next_buffer + BUFFER)
        x_third = get_two(memory, element + third_slot)
        dt_third = get_two(memory, element + 512 + third_slot)
        skips_third = ()
        for k in tl.static_range(2):
            step, value = convert(dt_third[k], x_third[k], bias, left - t0 - 2 * SPAN - 4 * k, DT_SOFTPLUS, MASKED)
            put(memory, own_step + third_buffer + 4 * k, step)
            put_operand(memory, own_operand + third_buffer + 128 * k, step * value, upper)
            skips_third = skips_third + (skip * value,)

        # This span, four steps at a time: sums over states are picked, decays taken, terms multiplied and operands read at
        # distances that cover their latencies, as the compiler keeps to this order.
        ours = parts + turn * PARTS + warp * 256
        totals = (zero, zero, zero, zero)
        early = zero
        for four in tl.static_range(8):
            terms_ahead = outer(left_far, spread(B_far, B_spread), zero)
            decays_ahead = decay_four(steps_ahead, rate)
            if four < 6:
                steps_ahead = get_quad(memory, reading + buffer + (4 * four + 8))
                left_far = get_quad(memory, operands + buffer + (four + 2) * 128)
                B_far = get_half(memory, B_place + here + (four + 2) * 128)
            else:
                steps_ahead = get_quad(memory, reading + next_buffer + (4 * four - 24))
                left_far = get_quad(memory, operands + next_buffer + (four - 6) * 128)
                B_far = get_half(memory, B_place + next_slot + (four - 6) * 128)
            if four % 2 == 0:
                C_bits = (spread(C_half, C_first), spread(C_half, C_second))
                if four < 6:
                    C_half = get_half(memory, C_place + here + (four // 2 + 1) * 256)
                else:
                    C_half = get_half(memory, C_place + next_slot)
            h0 = decays[0] * h + terms[0]
            h1 = decays[1] * h0 + terms[1]
            h2 = decays[2] * h1 + terms[2]
            h = decays[3] * h2 + terms[3]
            new_totals = multiply_add((bits(h0), bits(h2), bits(h1), bits(h)), C_bits, (zero, zero, zero, zero))
            if four > 0:
                picked = pick(totals, upper, (four - 1) % 2)
                if four % 2 == 1:
                    early = picked
                else:
                    put_pair(memory, ours + (four // 2 - 1) * 64, early, picked)
            totals = new_totals
            terms = terms_ahead
            decays = decays_ahead
        put_pair(memory, ours + 3 * 64, early, pick(totals, upper, 1))
        await_copies(thread)
        tl.debug_barrier()

        skips_before = skips
        skips = skips_next
        skips_next = skips_third
        here = next_slot
        buffer = next_buffer
        wide_at += wide_span
        y_at += SPAN * D_INNER
        B_at += SPAN * B_STRIDE
        C_at += SPAN * C_STRIDE

    spans = tl.cdiv(seqlen, SPAN)
    sums = collect(memory, parts + ((spans - 1) & 1) * PARTS, warp)
    gates = (0, 0)
    if GATED:
        gates = get_two(memory, element + 1024 + (spans - 1) % SLOTS * SLOT)
    finish(y_at - SPAN * D_INNER, sums, skips_before, gates, left - (spans - 1) * SPAN, D_INNER, GATED)
    tl.store(final_ptr + (batch * D_INNER + d) * D_STATE + state, h)
