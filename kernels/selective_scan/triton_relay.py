"""The forward scan where channels are few: the warps of a program hand the states on along the sequence; see README.md."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import INTERPRETED, LOG2E, ex2, silu
from kernels.selective_scan.triton_mma import TF32_CORRECTION, bits, lane_of
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
    pitch_of,
)
from kernels.selective_scan.triton_shared import (
    await_own_copies,
    claim_memory,
    commit_copies,
    copy_async,
    from_byte,
    get_quad,
    put,
    put_quad,
)

SLOTS = tl.constexpr(4)
"""Blocks of a warp in shared memory: this one, and three to come."""

SLOT = tl.constexpr(896)
"""Bytes of such a block: 8 rows of 8 channels of x, dt and z, then of 16 states of B and C."""

STATES = tl.constexpr(128)
"""Floats of the states of a program's channels."""

ASIDE = tl.constexpr(15)
"""The barrier of the warps that have nobody to meet; those of two warps are 1 to 8."""

if INTERPRETED:

    @triton.jit
    def hand_in(memory, place, warp, states, WARPS: tl.constexpr):
        """Leave for the first warp what enters the sequence."""
        for n in tl.static_range(4):
            tl.store(memory + place + n, states[n], mask=warp == 0)

    @triton.jit
    def take_turn(memory, place, warp, decays, ends, WARPS: tl.constexpr):
        """The states that enter each warp's block, left by the warp before, and those that leave it for the next."""
        entering = ends
        for w in tl.static_range(WARPS):
            following = place + (STATES if w + 1 < WARPS else -STATES * (WARPS - 1))
            states = ()
            for n in tl.static_range(4):
                states = states + (tl.where(warp == w, tl.load(memory + place + n), entering[n]),)
            entering = states
            for n in tl.static_range(4):
                tl.store(memory + following + n, decays[n] * entering[n] + ends[n], mask=warp == w)
        return entering

    @triton.jit
    def take_last(memory, place, warp):
        """In the first warp, the states that leave the sequence."""
        return get_quad(memory, place)

else:

    @triton.jit
    def _arrive(barrier, threads):
        """Arrive at a barrier of so many threads.

        Every warp does, at one of no consequence where it has nobody to meet: behind a predicate the compiler takes the threads of a
        warp for parted from there on, and makes anew what they share (23 instructions of 355 a block).
        """
        tl.inline_asm_elementwise(
            "bar.arrive $1, $2; mov.b32 $0, 0;", "=r,r,r", [barrier, threads], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def _wait(barrier, threads):
        """Wait at a barrier of so many threads."""
        tl.inline_asm_elementwise(
            "bar.sync $1, $2; mov.b32 $0, 0;", "=r,r,r", [barrier, threads], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def _next(warp, WARPS: tl.constexpr):
        """The warp after a warp, and the barrier at which the two meet: that of a warp and the one before it is 1 + its number."""
        return tl.where(warp == WARPS - 1, 0, warp + 1)

    @triton.jit
    def hand_in(memory, place, warp, states, WARPS: tl.constexpr):
        """Leave for the first warp what enters the sequence: the last warp does."""
        following = _next(warp, WARPS)
        put_quad(memory, place + STATES * (following - warp), states[0], states[1], states[2], states[3])
        _arrive(tl.where(following == 0, 1, ASIDE), tl.where(following == 0, 64, 32 * (WARPS - 1)))

    @triton.jit
    def take_turn(memory, place, warp, decays, ends, WARPS: tl.constexpr):
        """The states that enter each warp's block, left by the warp before, and those that leave it for the next."""
        following = _next(warp, WARPS)
        # A store that needs all of this: else the compiler waits first and computes after that.
        done = bits(ends[0]) ^ bits(ends[1]) ^ bits(ends[2]) ^ bits(ends[3])
        done = done ^ bits(decays[0]) ^ bits(decays[1]) ^ bits(decays[2]) ^ bits(decays[3])
        aside = WARPS * (SLOTS * SLOT // 4 + STATES) + 32 * warp + (place >> 2 & 31)
        put(memory, aside, done.to(tl.float32, bitcast=True))
        _wait(warp + 1, 64)
        entering = get_quad(memory, place)
        put_quad(
            memory,
            place + STATES * (following - warp),
            decays[0] * entering[0] + ends[0],
            decays[1] * entering[1] + ends[1],
            decays[2] * entering[2] + ends[2],
            decays[3] * entering[3] + ends[3],
        )
        _arrive(following + 1, 64)
        return entering

    @triton.jit
    def take_last(memory, place, warp):
        """In the first warp, the states that leave the sequence."""
        _wait(warp + 1, tl.where(warp == 0, 64, 32))
        return get_quad(memory, place)


@triton.jit
def copy_whole(memory, lane, own_at, B_at, C_at, here, D_STATE: tl.constexpr):
    """`copy_block` where blocks are whole or not `here` at all."""
    copy_async(memory, tl.minimum(lane, 23) * 16, own_at, 16, here)
    PITCH: tl.constexpr = pitch_of(D_STATE)
    place = 384 + (lane >> 2) * PITCH + (lane & 3) * 8
    copy_async(memory, place, B_at, 8, here)
    copy_async(memory, place + 8 * PITCH, C_at, 8, here)
    commit_copies(lane)


@triton.jit
def pick_two(total, sums, mine, k: tl.constexpr, s: tl.constexpr):
    """The sums with those of two steps, each in the lane that finishes it."""
    out = ()
    for i in tl.static_range(2):
        if i != k:
            out = out + (sums[i],)
        elif s == 0:
            out = out + (tl.where(mine[1], total[k + 2], total[k]),)
        else:
            out = out + (tl.where(mine[3], total[k + 2], tl.where(mine[2], total[k], sums[i])),)
    return out


@triton.jit
def relay_kernel(
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
    WARPS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Scan a whole sequence with 16 states, for 8 channels.

    Lane 4 g + q of a warp holds states 4 q to 4 q + 3 of channel g. Each warp takes every WARPS-th block of 8 steps: first from zero
    states, keeping decays and inflows in registers; then, when the warp before has left the states that enter its block, it leaves
    those that enter the next one and goes through its own again.
    """
    D_STATE: tl.constexpr = 16
    GATED: tl.constexpr = z_ptr is not None
    TILE: tl.constexpr = BLOCK * WARPS
    tl.static_assert(TILE % 32 == 0)  # so that a warp meets a checkpoint in every tile or in none
    batch = tl.program_id(1).to(tl.int64)
    thread = tl.arange(0, 32 * WARPS)
    zero = tl.zeros((32 * WARPS,), tl.float32)
    none = tl.zeros((32 * WARPS,), tl.int32)
    lane = thread & 31
    warp = thread >> 5
    quarter = lane & 3
    row0 = lane & -4
    g = lane >> 2
    d = tl.program_id(0) * 8 + g
    start = BLOCK * warp  # of a warp's block in a tile
    rates = ()
    initial = ()
    for n in tl.static_range(4):
        rates = rates + (tl.load(A_ptr + d * D_STATE + 4 * quarter + n) * LOG2E,)
        if initial_ptr is not None:
            initial = initial + (tl.load(initial_ptr + (batch * D_INNER + d) * D_STATE + 4 * quarter + n),)
        else:
            initial = initial + (zero,)
    skip = (tl.load(D_ptr + d) if D_ptr is not None else zero,)
    bias = (tl.load(bias_ptr + d) if bias_ptr is not None else zero,)
    mine = ()
    sources = ()
    for s in tl.static_range(4):
        mine = mine + (quarter == s,)
        sources = sources + (row0 + s,)

    # Where a lane copies from: 16 bytes of a row of x, dt or z, and 8 bytes of a row of B and of C.
    corner = tl.program_id(0) * 8
    z_first = x_ptr
    if z_ptr is not None:
        z_first = z_ptr + batch * z_stride_batch
    chunk = tl.minimum(lane, 23)
    tensor = chunk // 8
    within = chunk % 8
    at = (within + start).to(tl.int64)
    x_at = (x_ptr + batch * x_stride_batch + corner + at * X_STRIDE).to(tl.int64)
    dt_at = (dt_ptr + batch * dt_stride_batch + corner + at * DT_STRIDE).to(tl.int64)
    z_at = (z_first + corner + at * Z_STRIDE).to(tl.int64)
    own_at = (tl.where(tensor == 0, x_at, tl.where(tensor == 1, dt_at, z_at)).to(tl.pointer_type(tl.bfloat16)),)
    if X_STRIDE == DT_STRIDE and (X_STRIDE == Z_STRIDE or z_ptr is None):
        own_tile: tl.constexpr = TILE * X_STRIDE
    else:
        own_tile = TILE * tl.where(tensor == 0, X_STRIDE, tl.where(tensor == 1, DT_STRIDE, Z_STRIDE))
    own_rows = (within,)
    state_row = ((lane >> 2) + start).to(tl.int64)
    B_at = B_ptr + batch * b_stride_batch + state_row * B_STRIDE + 4 * quarter
    C_at = C_ptr + batch * c_stride_batch + state_row * C_STRIDE + 4 * quarter
    if NGROUPS > 1:  # a program's channels are of one group
        group = (tl.program_id(0) * 8 // (D_INNER // NGROUPS)).to(tl.int64)
        B_at += group * b_stride_group
        C_at += group * c_stride_group
    y_row = y_ptr + batch * seqlen * D_INNER + (start + quarter) * D_INNER + d
    c_time = (g >> 1) + 4 * (g & 1)  # columns 2 q and 2 q + 1 of a product are lane q's steps, q and q + 4
    length = seqlen - start
    left = length - quarter

    # Shared memory: each warp's ring of blocks as loaded, the states that enter each warp's block, and what nobody reads.
    PITCH: tl.constexpr = pitch_of(D_STATE)
    BYTES: tl.constexpr = WARPS * (SLOTS * SLOT + 4 * STATES + 128)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    whole = claim_memory(scratch_ptr + program * (BYTES // 4), thread, BYTES)
    memory = from_byte(whole, warp * (SLOTS * SLOT))
    entrance = WARPS * (SLOTS * SLOT // 4) + STATES * warp + 4 * lane
    element = quarter * 16 + 2 * g
    B_place = 384 + quarter * PITCH + 4 * g
    C_place = 384 + 8 * PITCH + c_time * PITCH + 8 * quarter

    for ahead in tl.static_range(SLOTS - 1):
        copy_block(
            from_byte(memory, ahead * SLOT), lane, own_at, own_rows, B_at, C_at, length - ahead * TILE, D_STATE, 1
        )
        own_at = (own_at[0] + own_tile,)
        B_at += TILE * B_STRIDE
        C_at += TILE * C_STRIDE
    hand_in(whole, entrance, warp, initial, WARPS)
    slot = tl.program_id(0) * 0

    if checkpoints_ptr is not None:
        kept = (
            checkpoints_ptr
            + (batch * tl.cdiv(seqlen, 32) + start // 32) * (D_STATE * D_INNER)
            + 4 * quarter * D_INNER
            + d
        )
    first_due = start % 32 == 0
    ahead_rows = length - (SLOTS - 1) * TILE
    for _tile in range(0, tl.cdiv(seqlen, TILE), UNROLL):
        for u in tl.static_range(UNROLL):
            if UNROLL == SLOTS:  # each in its own slot, known to the compiler
                near = u * SLOT
                far = (u + SLOTS - 1) % SLOTS * SLOT
            else:
                near = slot
                far = tl.where(slot == 0, (SLOTS - 1) * SLOT, slot - SLOT)
            if MASKED:
                copy_block(from_byte(memory, far), lane, own_at, own_rows, B_at, C_at, ahead_rows, D_STATE, 1)
            else:
                copy_whole(
                    from_byte(memory, far),
                    lane,
                    own_at[0] + u * own_tile,
                    B_at + u * TILE * B_STRIDE,
                    C_at + u * TILE * C_STRIDE,
                    ahead_rows > u * TILE,
                    D_STATE,
                )
            await_own_copies(lane, 2)
            now = get_elements(memory, element + near, 0, 2, 1)
            words = get_B(memory, B_place + near, D_STATE)
            steps, inputs, skips = convert(now, bias, skip, left, DT_SOFTPLUS, 1, MASKED)

            # What the block makes of states that are zero, and how it decays others; decays and inflows are kept.
            decays = ()
            inflows = ()
            ends = (zero, zero, zero, zero)
            for row in tl.static_range(4):
                now_decays = decays_of(steps, rates, sources, row // 2, row % 2, 1)
                now_inflows = inflows_of(inputs, words, mine, none, zero, row // 2, row % 2, 1)
                if row == 0:
                    first = (now_inflows[0], now_inflows[1], now_inflows[2], now_inflows[3])
                    second = ()
                    for n in tl.static_range(4):
                        second = second + (now_decays[4 + n] * first[n] + now_inflows[4 + n],)
                    ends = second
                else:
                    first, ends = advance(ends, now_decays, now_inflows, 1)
                decays = decays + now_decays
                inflows = inflows + now_inflows
            span = steps[0] + steps[1]
            span = span + lane_of(span, lane ^ 1)
            span = span + lane_of(span, lane ^ 2)
            across = ()  # one power of the block's time: the product of its eight decays is no faster and errs twice as much
            for n in tl.static_range(4):
                across = across + (ex2(span * rates[n]),)

            h = take_turn(whole, entrance, warp, across, ends, WARPS)
            if checkpoints_ptr is not None:
                due = first_due & (length > 0) if MASKED else first_due
                for n in tl.static_range(4):
                    tl.store(kept + (n * D_INNER + u * (TILE // 32 * D_STATE * D_INNER)), h[n], mask=due)
            Cs = get_C(memory, C_place + near, D_STATE)
            sums = (zero, zero)
            total = (zero, zero, zero, zero)
            for row in tl.static_range(4):
                now_decays = ()
                now_inflows = ()
                for n in tl.static_range(8):
                    now_decays = now_decays + (decays[8 * row + n],)
                    now_inflows = now_inflows + (inflows[8 * row + n],)
                first, h = advance(h, now_decays, now_inflows, 1)
                if row > 0:
                    sums = pick_two(total, sums, mine, (row - 1) // 2, (row - 1) % 2)
                total = contract(first, h, Cs, zero)
            sums = pick_two(total, sums, mine, 1, 1)
            gates = ()
            if GATED:
                gates = get_elements(memory, element + near, 2, 1, 1)
            for k in tl.static_range(2):
                value = sums[k] * TF32_CORRECTION + skips[k]
                if GATED:
                    value = value * silu(channels_of(gates[k], 1)[0])
                out_at = y_row + (k * 4 * D_INNER + u * TILE * D_INNER)
                if MASKED:
                    tl.store(out_at, value.to(y_ptr.dtype.element_ty), mask=left > 4 * k)
                else:
                    tl.store(out_at, value.to(y_ptr.dtype.element_ty))
        if UNROLL == 1:
            slot = tl.where(slot == (SLOTS - 1) * SLOT, 0, slot + SLOT)
        own_at = (own_at[0] + UNROLL * own_tile,)
        y_row += UNROLL * TILE * D_INNER
        B_at += UNROLL * TILE * B_STRIDE
        C_at += UNROLL * TILE * C_STRIDE
        ahead_rows -= UNROLL * TILE
        length -= UNROLL * TILE
        left -= UNROLL * TILE
        if checkpoints_ptr is not None:
            kept += UNROLL * (TILE // 32 * D_STATE * D_INNER)

    ending = take_last(whole, entrance, warp)
    for n in tl.static_range(4):
        tl.store(final_ptr + (batch * D_INNER + d) * D_STATE + 4 * quarter + n, ending[n], mask=warp == 0)
