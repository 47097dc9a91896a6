"""The forward scan where channels are few: the warps of a program share the states of its channels; see README.md."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, ex2, silu, softplus_powers
from kernels.selective_scan.triton_mma import (
    TF32_CORRECTION,
    bits,
    claim_memory,
    dropped,
    get_pair,
    get_quad,
    load_half,
    multiply_add,
    multiply_four,
    put,
    put_pair,
    put_quad,
)

TEAM = tl.constexpr(4)
"""Warps that share the states of a channel: 4 states each."""

SPAN = tl.constexpr(32)
"""Steps between barriers; each warp converts 8 of them."""

MEMORY = tl.constexpr(4672)
"""Floats of shared memory of a program."""

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
def pick(totals, mine, k: tl.constexpr):
    """Of two products, which hold the sums of four steps, the one that is the lane's: columns 2 q + k of a row are step q's."""
    value = tl.where(mine[1], totals[2 + k], totals[k])
    value = tl.where(mine[2], totals[4 + k], value)
    return tl.where(mine[3], totals[6 + k], value)


@triton.jit
def outer(left, half, even, none, zero):
    """dt x B of four steps of a lane's channel and state, from four operands and a lane's bf16 of B."""
    B_bits = tl.where(even, half << 16, none)
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
def load_two(at, left, stride: tl.constexpr, MASKED: tl.constexpr):
    """A lane's elements of a span, at two steps four apart of which those from `left` on are zero, as bits."""
    return load_half(at, left > 0, MASKED), load_half(at + 4 * stride, left > 4, MASKED)


@triton.jit
def brain_float(half):
    """The fp32 that a bf16 in the low half of an int32 is."""
    return (half << 16).to(tl.float32, bitcast=True)


@triton.jit
def load_states(
    pointer, first, last, stride: tl.constexpr, COUNT: tl.constexpr, APART: tl.constexpr, MASKED: tl.constexpr
):
    """COUNT elements of a column of B or C as bits, APART rows apart from `pointer`'s row `first` on, never beyond row `last`."""
    values = ()
    for i in tl.static_range(COUNT):
        at = i * APART
        if MASKED:
            at = tl.minimum(first + i * APART, last) - first
        values = values + (load_half(pointer + at * stride, first >= 0, False),)
    return values


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
    DEPTH: tl.constexpr = 3
    GATED: tl.constexpr = z_ptr is not None
    batch = tl.program_id(1).to(tl.int64)
    thread = tl.arange(0, 32 * TEAM)
    zero = tl.zeros((32 * TEAM,), tl.float32)
    none = tl.zeros((32 * TEAM,), tl.int32)
    lane = thread & 31
    quarter = lane & 3
    g = lane >> 2
    warp = thread >> 5
    channel = tl.program_id(0) * 8 + g
    inside = channel < D_INNER
    d = tl.minimum(channel, D_INNER - 1)
    state = 4 * warp + quarter
    rate = tl.load(A_ptr + d * D_STATE + state) * LOG2E
    if initial_ptr is not None:
        h = tl.load(initial_ptr + (batch * D_INNER + d) * D_STATE + state)
    else:
        h = zero
    skip = tl.load(D_ptr + d) if D_ptr is not None else zero
    bias = tl.load(bias_ptr + d) if bias_ptr is not None else zero
    even = (quarter & 1) == (g & 1)
    upper = quarter >= 2
    mine = ()
    for s in tl.static_range(4):
        mine = mine + (quarter == s,)

    # Shared memory, all twice: step sizes by channel, left operands by four steps and lane, partial sums by warp, eight steps and lane.
    memory = claim_memory(scratch_ptr + (batch * tl.num_programs(0) + tl.program_id(0)) * MEMORY, thread)
    own_step = g * PITCH + 8 * warp + quarter
    own_operand = 8 * PITCH + 256 * warp + 4 * lane
    BUFFER: tl.constexpr = 8 * PITCH + 8 * 128
    PARTS: tl.constexpr = TEAM * 4 * 64
    parts = 2 * BUFFER + 2 * lane

    first = 8 * warp + quarter
    x_at = x_ptr + batch * x_stride_batch + first * X_STRIDE + d
    dt_at = dt_ptr + batch * dt_stride_batch + first * DT_STRIDE + d
    z_at = z_ptr + batch * z_stride_batch + first * Z_STRIDE + d if z_ptr is not None else x_at
    y_at = y_ptr + batch * seqlen * D_INNER + first * D_INNER + d
    c_time = (g >> 1) + 4 * (g & 1)  # columns 2 q and 2 q + 1 of a product are lane q's steps, q and q + 4
    B_at = B_ptr + batch * b_stride_batch + quarter * B_STRIDE + 4 * warp + (g >> 1)
    C_at = C_ptr + batch * c_stride_batch + c_time * C_STRIDE + state
    if NGROUPS > 1:  # a program's channels are of one group
        group = (tl.program_id(0) * 8 // (D_INNER // NGROUPS)).to(tl.int64)
        B_at += group * b_stride_group
        C_at += group * c_stride_group
    left = tl.where(inside, seqlen - first, 0)
    last = seqlen - 1

    # The first span converted, those after it as loaded.
    x_now = load_two(x_at, left, X_STRIDE, True)
    dt_now = load_two(dt_at, left, DT_STRIDE, True)
    skips = ()
    for k in tl.static_range(2):
        step, value = convert(dt_now[k], x_now[k], bias, left - 4 * k, DT_SOFTPLUS, True)
        put(memory, own_step + 4 * k, step)
        put_operand(memory, own_operand + 128 * k, step * value, upper)
        skips = skips + (skip * value,)
    # Not the names of others: a loop does not carry what has become another's value.
    skips_before = (zero, zero)
    gates_before = (none, none)
    x_next = ()
    dt_next = ()
    for stage in tl.static_range(1, DEPTH):
        x_next = x_next + load_two(x_at + stage * SPAN * X_STRIDE, left - stage * SPAN, X_STRIDE, True)
        dt_next = dt_next + load_two(dt_at + stage * SPAN * DT_STRIDE, left - stage * SPAN, DT_STRIDE, True)
    states = load_states(B_at, quarter, last, B_STRIDE, 8, 4, True) + load_states(
        C_at, c_time, last, C_STRIDE, 4, 8, True
    )
    tl.debug_barrier()

    for span in tl.range(tl.cdiv(seqlen, SPAN), loop_unroll_factor=UNROLL):
        t0 = span * SPAN
        turn = span & 1
        if checkpoints_ptr is not None:
            at = checkpoints_ptr + (batch * tl.cdiv(seqlen, SPAN) + span) * (D_STATE * D_INNER) + state * D_INNER + d
            if MASKED:
                tl.store(at, h, mask=inside)
            else:
                tl.store(at, h)
        # What later spans need: x and dt of DEPTH spans ahead, B and C of the next, and z of this one, which is finished in the next.
        far = DEPTH * SPAN
        near = SPAN
        if not MASKED:
            far = tl.minimum(DEPTH * SPAN, seqlen - SPAN - t0)
            near = tl.minimum(SPAN, seqlen - SPAN - t0)
        x_next = x_next + load_two(x_at + far * X_STRIDE, left - t0 - DEPTH * SPAN, X_STRIDE, MASKED)
        dt_next = dt_next + load_two(dt_at + far * DT_STRIDE, left - t0 - DEPTH * SPAN, DT_STRIDE, MASKED)
        gates = (none, none)
        if GATED:
            gates = load_two(z_at, left - t0, Z_STRIDE, MASKED)
        beyond = last - t0 - SPAN
        states_next = load_states(B_at + near * B_STRIDE, quarter, beyond, B_STRIDE, 8, 4, MASKED)
        states_next = states_next + load_states(C_at + near * C_STRIDE, c_time, beyond, C_STRIDE, 4, 8, MASKED)

        # The span before, whose partial sums have met.
        sums = collect(memory, parts + (1 - turn) * PARTS, warp)
        left_before = tl.where(span > 0, left - t0 + SPAN, 0)
        finish(y_at - SPAN * D_INNER, sums, skips_before, gates_before, left_before, D_INNER, GATED)

        # The next span's elements, for every warp.
        other = (1 - turn) * BUFFER
        skips_next = ()
        for k in tl.static_range(2):
            step, value = convert(dt_next[k], x_next[k], bias, left - t0 - SPAN - 4 * k, DT_SOFTPLUS, MASKED)
            put(memory, own_step + other + 4 * k, step)
            put_operand(memory, own_operand + other + 128 * k, step * value, upper)
            skips_next = skips_next + (skip * value,)

        # This span, four steps at a time: sums over states are picked, decays taken, terms multiplied and operands read at
        # distances that cover their latencies, as the compiler keeps to this order.
        ready = g * PITCH + turn * BUFFER
        operands = 8 * PITCH + 4 * lane + turn * BUFFER
        ours = parts + turn * PARTS + warp * 256
        steps = get_quad(memory, ready)
        steps_ahead = get_quad(memory, ready + 4)
        left_ahead = get_quad(memory, operands)
        left_far = get_quad(memory, operands + 128)
        terms = outer(left_ahead, states[0], even, none, zero)
        decays = decay_four(steps, rate)
        totals = (zero, zero, zero, zero, zero, zero, zero, zero)
        early = zero
        for four in tl.static_range(8):
            if four < 7:
                terms_ahead = outer(left_far, states[four + 1], even, none, zero)
                decays_ahead = decay_four(steps_ahead, rate)
            if four < 6:
                steps_ahead = get_quad(memory, ready + (4 * four + 8))
                left_far = get_quad(memory, operands + (four + 2) * 128)
            h0 = decays[0] * h + terms[0]
            h1 = decays[1] * h0 + terms[1]
            h2 = decays[2] * h1 + terms[2]
            h = decays[3] * h2 + terms[3]
            C_bits = states[8 + four // 2] << 16
            new_totals = multiply_four((bits(h0), bits(h1)), C_bits) + multiply_four((bits(h2), bits(h)), C_bits)
            if four > 0:
                picked = pick(totals, mine, (four - 1) % 2)
                if four % 2 == 1:
                    early = picked
                else:
                    put_pair(memory, ours + (four // 2 - 1) * 64, early, picked)
            totals = new_totals
            if four < 7:
                terms = terms_ahead
                decays = decays_ahead
        put_pair(memory, ours + 3 * 64, early, pick(totals, mine, 1))
        tl.debug_barrier()

        skips_before = skips
        gates_before = gates
        skips = skips_next
        x_later = ()
        dt_later = ()
        for i in tl.static_range(2, 2 * DEPTH):
            x_later = x_later + (x_next[i],)
            dt_later = dt_later + (dt_next[i],)
        x_next = x_later
        dt_next = dt_later
        states = states_next
        x_at += SPAN * X_STRIDE
        dt_at += SPAN * DT_STRIDE
        z_at += SPAN * Z_STRIDE
        y_at += SPAN * D_INNER
        B_at += SPAN * B_STRIDE
        C_at += SPAN * C_STRIDE

    spans = tl.cdiv(seqlen, SPAN)
    sums = collect(memory, parts + ((spans - 1) & 1) * PARTS, warp)
    finish(y_at - SPAN * D_INNER, sums, skips_before, gates_before, left - (spans - 1) * SPAN, D_INNER, GATED)
    tl.store(final_ptr + (batch * D_INNER + d) * D_STATE + state, h, mask=inside)
