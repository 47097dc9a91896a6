"""The backward scan's main kernel for whole tiles of bf16 or fp16: every input is copied into shared memory a tile ahead.

Threads, pieces and sums are laid out as in triton_bwd, with two channels a thread. What differs is where operands wait: a register that
waits for a load sits on one of six scoreboards, which the loads of a later tile share, so that loads ahead were waited for as if they
were due. Copies (cp.async) wait in their own order. Sums of dB and dC over channels keep the two halves of a warp apart, which saves a
shuffle a value and costs shared memory; sums of dA stay in shared memory.
"""

# The bodies are Triton's language: constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_bwd_memory import (
    TILE,
    add_sums,
    await_all,
    claim_dynamic,
    copy_plane,
    copy_tile,
    get_float,
    put_pair_where,
)
from kernels.selective_scan.triton_bwd_rows import STEPS, over_pieces, row_gradients, row_inputs, spans_between
from kernels.selective_scan.triton_bwd_state import enter_pieces, replay_gradients, replay_states
from kernels.selective_scan.triton_common import ex2
from kernels.selective_scan.triton_lanes import quad_sums, store_row, store_scratch, sum_pieces, unpack
from kernels.selective_scan.triton_shared import claim_memory, from_byte, get_pair, get_quad, get_word, put, put_pair

CLOSED = tl.constexpr(-1e30)
HALVES = tl.constexpr(2)
BLOCK_STATES = 8
"""States whose sums of dB and dC are left in shared memory before they are added up."""
INTERPRETED_FLOATS = 65536
"""Floats of a program's memory in the interpreter: more than a multiprocessor has."""
_FLOATS = tl.constexpr(INTERPRETED_FLOATS)


@triton.jit(
    do_not_specialize=["seqlen", "tiles", "chunks", "chunk_tiles", "x_batch", "dt_batch", "z_batch", "dy_batch"]
)
def scan_backward_copies_kernel(
    x_ptr,
    dt_ptr,
    z_ptr,
    dy_ptr,
    A_ptr,
    BC_ptr,
    D_ptr,
    bias_ptr,
    checkpoint_ptr,
    carry_ptr,
    dx_ptr,
    ddt_ptr,
    dz_ptr,
    dA_ptr,
    dD_ptr,
    dbias_ptr,
    part_ptr,
    scratch_ptr,
    part_width,
    seqlen,
    tiles,
    chunks,
    chunk_tiles,
    x_batch,
    dt_batch,
    z_batch,
    dy_batch,
    ROW_X: tl.constexpr,
    ROW_DT: tl.constexpr,
    ROW_Z: tl.constexpr,
    ROW_DY: tl.constexpr,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr,
    WARPS: tl.constexpr,
    EXACT: tl.constexpr,
    CARRIED: tl.constexpr,
    INITIAL: tl.constexpr,
):
    """One program: a chunk of one sequence, SPAN channels of a group, tile by tile from its end. Grid (blocks x chunks x batch)."""
    HAS_Z: tl.constexpr = z_ptr is not None
    CHANNELS: tl.constexpr = 2
    SPAN: tl.constexpr = 16 * WARPS
    BLOCKS: tl.constexpr = D_INNER // SPAN
    THREADS: tl.constexpr = 32 * WARPS
    N: tl.constexpr = D_STATE
    AT_BC: tl.constexpr = 0
    AT_H: tl.constexpr = 2 * N * 2 * TILE * 4
    AT_A: tl.constexpr = AT_H + 2 * N * SPAN * 4
    AT_G: tl.constexpr = AT_A + N * SPAN * 4
    AT_DA: tl.constexpr = AT_G + N * SPAN * 4
    STATIC: tl.constexpr = AT_DA + N * SPAN * 4
    SUMS: tl.constexpr = WARPS * HALVES * 2 * BLOCK * TILE  # floats of a half of the scratch
    AT_ROWS: tl.constexpr = 2 * SUMS * 4
    PLANE: tl.constexpr = TILE * SPAN * 2
    CH: tl.constexpr = SPAN // 8
    pid = tl.program_id(0)
    block = pid % BLOCKS
    place = (pid // BLOCKS).to(tl.int64)
    chunk = pid // BLOCKS % chunks
    b = place // chunks
    group = block // (BLOCKS // GROUPS)
    thread = tl.arange(0, THREADS)
    lane = thread & 31
    warp = thread >> 5
    piece = (lane >> 2) & 3
    first = block * SPAN
    local = (warp * 8 + (lane >> 4) * 4 + (lane & 3)) * CHANNELS
    d = first + local
    t_lane = piece * STEPS
    zero = tl.zeros((THREADS,), tl.float32)
    memory = claim_memory(scratch_ptr + pid.to(tl.int64) * _FLOATS, thread, STATIC)
    wide = claim_dynamic(scratch_ptr + pid.to(tl.int64) * _FLOATS + STATIC // 4, thread, seqlen < 0, WARPS * 2048)
    at_out = t_lane * (D_INNER // 2) + d // 2
    dx_ptr += b * seqlen * D_INNER
    ddt_ptr += b * seqlen * D_INNER
    sums = place * (D_STATE * D_INNER)
    mine = piece & 1
    dA_ptr += sums + d + mine
    carry_ptr += sums
    part_row = BLOCKS * part_width
    part_ptr += b * tiles * (N * part_row) + block * part_width
    z_source = x_ptr
    if HAS_Z:
        dz_ptr += b * seqlen * D_INNER
        z_source = z_ptr + b * z_batch + first
    sources = (
        BC_ptr + (b * GROUPS + group) * tiles * (2 * D_STATE * TILE),
        checkpoint_ptr + b * tiles * (D_STATE * D_INNER) + first,
        x_ptr + b * x_batch + first,
        dt_ptr + b * dt_batch + first,
        z_source,
        dy_ptr + b * dy_batch + first,
    )
    count = tl.minimum(chunk_tiles, tiles - chunk * chunk_tiles)
    last = (chunk * chunk_tiles + count - 1).to(tl.int64)
    copy_plane(memory, AT_A, A_ptr + first, D_INNER, thread, N, SPAN, False, THREADS)
    if CARRIED:
        copy_plane(memory, AT_G, carry_ptr + first, D_INNER, thread, N, SPAN, False, THREADS)
    copy_tile(
        memory,
        wide,
        0,
        last,
        sources,
        ROW_X,
        ROW_DT,
        ROW_Z,
        ROW_DY,
        thread,
        HAS_Z,
        D_INNER,
        N,
        SPAN,
        AT_BC,
        AT_H,
        AT_ROWS,
        THREADS,
    )

    kind = (lane >> 1) & 1  # dB or dC
    at_sums = ((warp * HALVES + (lane >> 4)) * 2 + kind) * (BLOCK * TILE) + t_lane + (lane & 1) * 4
    skip = ()
    bias = ()
    dD = (zero, zero)
    dbias = (zero, zero)
    zeros = (zero, zero)
    for c in tl.static_range(CHANNELS):
        if D_ptr is not None:
            skip = skip + (tl.load(D_ptr + d + c),)
        else:
            skip = skip + (zero,)
        if bias_ptr is not None:
            bias = bias + (tl.load(bias_ptr + d + c),)
        else:
            bias = bias + (zero,)
    at_pair = local  # of a state's row, in floats
    for n in range(N):
        put(memory, AT_DA // 4 + n * SPAN + local + mine, zero)
        if not CARRIED:
            put_pair(memory, AT_G // 4 + n * SPAN + at_pair, zero, zero)
    open_up0 = tl.where(piece >= 1, 0.0, CLOSED)
    open_up1 = tl.where(piece >= 2, 0.0, CLOSED)
    open_down0 = tl.where(piece <= 2, 0.0, CLOSED)
    open_down1 = tl.where(piece <= 1, 0.0, CLOSED)
    opens = (open_up0, open_up1, open_down0, open_down1)
    q_lane = warp * 2 + (lane >> 4)
    at_row = piece * (8 * SPAN * 2) + ((q_lane ^ (2 * piece)) % CH) * 16 + (lane & 3) * 4
    await_all(thread)
    tl.debug_barrier()

    for k in range(count):
        tile = last - k
        slot = k & 1
        t0 = tile * TILE
        copy_tile(
            memory,
            wide,
            slot ^ 1,
            tl.maximum(tile - 1, 0),
            sources,
            ROW_X,
            ROW_DT,
            ROW_Z,
            ROW_DY,
            thread,
            HAS_Z,
            D_INNER,
            N,
            SPAN,
            AT_BC,
            AT_H,
            AT_ROWS,
            THREADS,
        )
        rows = AT_ROWS + slot * (4 * PLANE) + at_row
        dts = ()
        dus = ()
        dys = ()
        totals = zeros
        for i in tl.static_range(STEPS):
            xs = unpack(get_word(wide, rows + i * (SPAN * 2)), x_ptr.dtype.element_ty)
            raw = unpack(get_word(wide, rows + i * (SPAN * 2) + PLANE), dt_ptr.dtype.element_ty)
            gs = unpack(get_word(wide, rows + i * (SPAN * 2) + 3 * PLANE), dy_ptr.dtype.element_ty)
            if HAS_Z:
                zs = unpack(get_word(wide, rows + i * (SPAN * 2) + 2 * PLANE), z_ptr.dtype.element_ty)
            if not HAS_Z:
                zs = zeros
            steps, ahead, slopes, totals = row_inputs(
                xs, raw, gs, zs, bias, totals, zeros, HAS_Z, SOFTPLUS, False, CHANNELS, False
            )
            dts = dts + steps
            dus = dus + ahead
            dys = dys + slopes
        span_up, span_down = spans_between(totals, CHANNELS)
        ys = ()
        s1 = ()
        s2 = ()
        for _i in tl.static_range(STEPS * CHANNELS):
            ys = ys + (zero,)
            s1 = s1 + (zero,)
            s2 = s2 + (zero,)
        at_BC = AT_BC // 4 + slot * (N * 2 * TILE) + t_lane
        at_h = AT_H // 4 + slot * (N * SPAN) + at_pair
        part = part_ptr + tile * (N * part_row)
        for n_first in range(0, N, BLOCK):
            half = ((k * (N // BLOCK) + n_first // BLOCK) & 1) * SUMS
            for n in range(n_first, n_first + BLOCK):
                b_steps = get_quad(memory, at_BC + n * (2 * TILE)) + get_quad(memory, at_BC + n * (2 * TILE) + 4)
                c_steps = get_quad(memory, at_BC + n * (2 * TILE) + TILE) + get_quad(
                    memory, at_BC + n * (2 * TILE) + TILE + 4
                )
                a_now = get_pair(memory, AT_A // 4 + n * SPAN + at_pair)
                h_now = get_pair(memory, at_h + n * SPAN)
                g_late = get_pair(memory, AT_G // 4 + n * SPAN + at_pair)
                at_dA = AT_DA // 4 + n * SPAN + local + mine
                dA_old = get_float(memory, at_dA)
                Bs = ()
                Cs = ()
                a = ()
                u = ()
                q = ()
                for i in tl.static_range(STEPS * CHANNELS):
                    Bs = Bs + (b_steps[i // CHANNELS],)
                    Cs = Cs + (c_steps[i // CHANNELS],)
                    a = a + (ex2(dts[i] * a_now[i % CHANNELS]),)
                    u = u + (dus[i] * Bs[i],)
                    q = q + (dys[i] * Cs[i],)
                h, g = enter_pieces(a, u, q, h_now, g_late, a_now, span_up, span_down, opens, piece, CHANNELS)
                kept, ys, dCs, _dC_sums = replay_states(a, u, h, ys, dys, Cs, zero, HAS_Z, False, CHANNELS)
                g, s1, s2, dBs, dA_sums, _dB_sums = replay_gradients(
                    a, q, g, kept, s1, s2, dts, dus, Bs, a_now, zero, False, CHANNELS
                )
                put(memory, at_dA, dA_old + sum_pieces(dA_sums, piece, CHANNELS))
                put_pair_where(memory, AT_G // 4 + n * SPAN + at_pair, g[0], g[1], piece == 0)
                values = ()
                for i in tl.static_range(STEPS):
                    values = values + (dBs[STEPS - 1 - i],)
                for i in tl.static_range(STEPS):
                    values = values + (dCs[i],)
                quad = quad_sums(values, lane, EXACT)
                store_scratch(wide, half + (n - n_first) * TILE + at_sums, quad, lane >= 0)
            if n_first < N - BLOCK:
                tl.debug_barrier()
                add_sums(from_byte(wide, half * 4), part, part_row, thread, n_first, BLOCK, WARPS * HALVES, THREADS)

        sums_of_rows = (dts, dys, ys, s1, s2, skip)
        for i in tl.static_range(STEPS):
            xs = unpack(get_word(wide, rows + i * (SPAN * 2)), x_ptr.dtype.element_ty)
            gs = unpack(get_word(wide, rows + i * (SPAN * 2) + 3 * PLANE), dy_ptr.dtype.element_ty)
            if HAS_Z:
                zs = unpack(get_word(wide, rows + i * (SPAN * 2) + 2 * PLANE), z_ptr.dtype.element_ty)
            if not HAS_Z:
                zs = zeros
            dxs, ddts, dzs, dD, dbias = row_gradients(
                i, xs, gs, zs, sums_of_rows, dD, dbias, zeros, HAS_Z, SOFTPLUS, CHANNELS, False
            )
            row = i * (D_INNER // 2)
            store_row(dx_ptr + t0 * D_INNER, at_out + row, dxs, zeros, CHANNELS, True, False)
            store_row(ddt_ptr + t0 * D_INNER, at_out + row, ddts, zeros, CHANNELS, True, False)
            if HAS_Z:
                store_row(dz_ptr + t0 * D_INNER, at_out + row, dzs, zeros, CHANNELS, True, False)
        await_all(thread)
        tl.debug_barrier()
        half = ((k * (N // BLOCK) + N // BLOCK - 1) & 1) * SUMS
        add_sums(from_byte(wide, half * 4), part, part_row, thread, N - BLOCK, BLOCK, WARPS * HALVES, THREADS)

    for n in range(N):
        tl.store(dA_ptr + n * D_INNER, get_float(memory, AT_DA // 4 + n * SPAN + local + mine))
        if INITIAL:
            pair = get_pair(memory, AT_G // 4 + n * SPAN + at_pair)
            tl.store(carry_ptr + n * D_INNER + d, pair[0], mask=piece == 0)
            tl.store(carry_ptr + n * D_INNER + d + 1, pair[1], mask=piece == 0)
    for c in tl.static_range(CHANNELS):
        skip_sum = over_pieces(dD[c])
        bias_sum = over_pieces(dbias[c])
        tl.store(dD_ptr + place * D_INNER + d + c, skip_sum, mask=piece == 0)
        tl.store(dbias_ptr + place * D_INNER + d + c, bias_sum, mask=piece == 0)
