"""The small Triton kernels around the main one of the backward scan: what it reads is laid out, what it leaves is summed.

`prepare_kernel` lays A, B and C out for the main kernel. Where the sequence is split into chunks, `local_carry_kernel` computes the
gradient that every piece of the later chunks sends towards the past on its own, and `join_carries_kernel` joins those to what
enters each chunk from the future. `finish_kernel` sums the partial results. All sums have a fixed order.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, ex2, silu, softplus
from kernels.selective_scan.triton_lanes import load_quad_constant

TILE = tl.constexpr(32)
JOIN = tl.constexpr(8)  # pieces whose loads are under way at once while carries are joined


@triton.jit
def transpose_matrix(source, target, d, n, stride_d, stride_n, factor, D_INNER: tl.constexpr, D_STATE: tl.constexpr):
    """Write factor * source, (d_inner, d_state), to target, fp32 (d_state, d_inner), at rows d and columns n."""
    mask = (d < D_INNER)[:, None] & (n < D_STATE)[None, :]
    values = tl.load(source + d.to(tl.int64)[:, None] * stride_d + n[None, :] * stride_n, mask=mask, other=0.0)
    tl.store(target + n[None, :] * D_INNER + d[:, None], values.to(tl.float32) * factor, mask=mask)


@triton.jit(do_not_specialize=["seqlen", "tiles", "time_programs"])
def prepare_kernel(
    A_ptr,
    B_ptr,
    C_ptr,
    A_out,
    B_out,
    C_out,
    BC_out,
    seqlen,
    tiles,
    time_programs,
    A_channel,
    A_state,
    B_batch,
    B_time,
    B_group,
    B_state,
    C_batch,
    C_time,
    C_group,
    C_state,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Selective B and C to fp32 (batch, group, tile, d_state, 2, TILE), zeros after the end; A and constant B, C to (d_state, d_inner).

    Programs below `time_programs` take one tile of one group each; the others a block of channels. A is scaled for exp2.
    Strides of a constant B or C are (channel, -, -, state).
    """
    pid = tl.program_id(0)
    n = tl.arange(0, STATES)
    if pid < time_programs:
        tile = pid % tiles
        place = (pid // tiles).to(tl.int64)
        step = tl.arange(0, TILE)
        t = tile.to(tl.int64) * TILE + step
        mask = (t < seqlen)[:, None] & (n < D_STATE)[None, :]
        target = BC_out + pid.to(tl.int64) * (2 * D_STATE * TILE) + n[None, :] * (2 * TILE) + step[:, None]
        inside = (step >= 0)[:, None] & (n < D_STATE)[None, :]
        if B_out is None:
            start = B_ptr + place // GROUPS * B_batch + place % GROUPS * B_group
            values = tl.load(start + t[:, None] * B_time + n[None, :] * B_state, mask=mask, other=0.0)
            tl.store(target, values.to(tl.float32), mask=inside)
        if C_out is None:
            start = C_ptr + place // GROUPS * C_batch + place % GROUPS * C_group
            values = tl.load(start + t[:, None] * C_time + n[None, :] * C_state, mask=mask, other=0.0)
            tl.store(target + TILE, values.to(tl.float32), mask=inside)
    else:
        d = (pid - time_programs) * BLOCK_D + tl.arange(0, BLOCK_D)
        transpose_matrix(A_ptr, A_out, d, n, A_channel, A_state, LOG2E, D_INNER, D_STATE)
        if B_out is not None:
            transpose_matrix(B_ptr, B_out, d, n, B_batch, B_state, 1.0, D_INNER, D_STATE)
        if C_out is not None:
            transpose_matrix(C_ptr, C_out, d, n, C_batch, C_state, 1.0, D_INNER, D_STATE)


@triton.jit(do_not_specialize=["seqlen", "tiles", "pieces", "first_piece", "piece_steps"])
def local_carry_kernel(
    dt_ptr,
    z_ptr,
    dy_ptr,
    A_ptr,
    BC_ptr,
    C_ptr,
    bias_ptr,
    reset_ptr,
    local_ptr,
    span_ptr,
    seqlen,
    tiles,
    pieces,
    first_piece,
    piece_steps,
    dt_batch,
    dt_time,
    dt_channel,
    z_batch,
    z_time,
    z_channel,
    dy_batch,
    dy_time,
    dy_channel,
    reset_batch,
    reset_time,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    STATES: tl.constexpr,
    WARPS: tl.constexpr,
):
    """The gradient that leaves each piece of the sequence towards the past when none enters it, and the piece's span of dt.

    Thread = channel; a thread holds STATES states. A piece with a reset gets an infinite span: nothing passes through it.
    """
    THREADS: tl.constexpr = 32 * WARPS
    GROUP_SIZE: tl.constexpr = D_INNER // GROUPS
    BLOCKS: tl.constexpr = (GROUP_SIZE + THREADS - 1) // THREADS
    STATE_BLOCKS: tl.constexpr = (D_STATE + STATES - 1) // STATES
    pid = tl.program_id(0)
    first_state = pid % STATE_BLOCKS * STATES
    block = pid // STATE_BLOCKS % (BLOCKS * GROUPS)
    place = pid // (STATE_BLOCKS * BLOCKS * GROUPS)
    piece = first_piece + place % (pieces - first_piece)
    b = (place // (pieces - first_piece)).to(tl.int64)
    group = block // BLOCKS
    thread = tl.arange(0, THREADS)
    local = block % BLOCKS * THREADS + thread
    inside = local < GROUP_SIZE
    d = group * GROUP_SIZE + local
    wide = d.to(tl.int64)
    dt_ptr += b * dt_batch + wide * dt_channel
    dy_ptr += b * dy_batch + wide * dy_channel
    if z_ptr is not None:
        z_ptr += b * z_batch + wide * z_channel
    zero = tl.zeros((THREADS,), tl.float32)
    bias = zero
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + d, mask=inside, other=0.0)
    rates = ()
    gs = ()
    for n in tl.static_range(STATES):
        row = tl.minimum(first_state + n, D_STATE - 1)
        rates = rates + (tl.load(A_ptr + row * D_INNER + d, mask=inside, other=0.0),)
        gs = gs + (zero,)
    C_rows = ()
    if C_ptr is not None:
        for n in tl.static_range(STATES):
            row = tl.minimum(first_state + n, D_STATE - 1)
            C_rows = C_rows + (tl.load(C_ptr + row * D_INNER + d, mask=inside, other=0.0),)
    else:
        BC_ptr += (b * GROUPS + group) * tiles * (2 * D_STATE * TILE) + TILE
    span = zero
    begin = piece.to(tl.int64) * piece_steps
    for k in range(piece_steps // 8):
        t0 = begin + piece_steps - 8 - k * 8
        steps = ()
        dys = ()
        cut = ()
        for i in tl.static_range(8):
            t = t0 + i
            mask = inside & (t < seqlen)
            dy = tl.load(dy_ptr + t * dy_time, mask=mask, other=0.0).to(tl.float32)
            if z_ptr is not None:
                dy = dy * silu(tl.load(z_ptr + t * z_time, mask=mask, other=0.0).to(tl.float32))
            if DT_CONSTANT:
                step = tl.load(dt_ptr + d, mask=inside, other=0.0).to(tl.float32) + bias
            else:
                step = tl.load(dt_ptr + t * dt_time, mask=mask, other=0.0).to(tl.float32) + bias
            if SOFTPLUS:
                step = softplus(step)
            step = tl.where(mask, step, 0.0)
            steps = steps + (step,)
            dys = dys + (dy,)
            span += step
            if reset_ptr is not None:
                flag = tl.load(reset_ptr + b * reset_batch + t * reset_time, mask=t < seqlen, other=0) != 0
                cut = cut + (tl.where(flag, -1e30, 0.0) + zero,)
                span = tl.where(flag, float("inf"), span)
        tile = tl.minimum(t0 // TILE, tiles - 1)
        next_gs = ()
        for n in tl.static_range(STATES):
            if C_ptr is None:
                row = tl.minimum(first_state + n, D_STATE - 1)
                at = BC_ptr + (tile * D_STATE + row) * (2 * TILE) + t0 % TILE + tl.zeros((THREADS,), tl.int32)
                Cs = load_quad_constant(at) + load_quad_constant(at + 4)
            g = gs[n]
            for back in tl.static_range(8):
                if reset_ptr is not None:
                    a = ex2(steps[7 - back] * rates[n] + cut[7 - back])
                else:
                    a = ex2(steps[7 - back] * rates[n])
                g = a * (g + dys[7 - back] * (Cs[7 - back] if C_ptr is None else C_rows[n]))
            next_gs = next_gs + (g,)
        gs = next_gs
    place = b * pieces + piece
    for n in tl.static_range(STATES):
        target = local_ptr + (place * D_STATE + first_state + n) * D_INNER + d
        tl.store(target, gs[n], mask=inside & (first_state + n < D_STATE))
    tl.store(span_ptr + place * D_INNER + d, span, mask=inside & (first_state == 0))


@triton.jit(do_not_specialize=["chunks", "pieces", "chunk_pieces"])
def join_carries_kernel(
    local_ptr,
    span_ptr,
    A_ptr,
    dfinal_ptr,
    carry_ptr,
    chunks,
    pieces,
    chunk_pieces,
    dfinal_batch,
    dfinal_channel,
    dfinal_state,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """carry[batch, chunk]: the gradient of the state that leaves the chunk, from all that comes after it."""
    pid = tl.program_id(0)
    BLOCKS: tl.constexpr = (D_INNER + BLOCK_D - 1) // BLOCK_D
    d = pid % BLOCKS * BLOCK_D + tl.arange(0, BLOCK_D)
    n = pid // BLOCKS % D_STATE
    b = (pid // (BLOCKS * D_STATE)).to(tl.int64)
    inside = d < D_INNER
    rate = tl.load(A_ptr + n * D_INNER + d, mask=inside, other=0.0)
    g = tl.zeros((BLOCK_D,), tl.float32)
    if dfinal_ptr is not None:
        start = dfinal_ptr + b * dfinal_batch + n * dfinal_state
        g = tl.load(start + d.to(tl.int64) * dfinal_channel, mask=inside, other=0.0).to(tl.float32)
    carry_ptr += b * chunks * (D_STATE * D_INNER) + n * D_INNER
    tl.store(carry_ptr + (chunks - 1).to(tl.int64) * (D_STATE * D_INNER) + d, g, mask=inside)
    for k in range(chunks - 1):
        chunk = chunks - 1 - k
        last = tl.minimum((chunk + 1) * chunk_pieces, pieces) - 1
        for j in range(0, chunk_pieces, JOIN):
            locals_ = ()
            spans = ()
            for i in tl.static_range(JOIN):
                piece = last - j - i
                mask = inside & (piece >= chunk * chunk_pieces)
                place = b * pieces + piece
                locals_ = locals_ + (tl.load(local_ptr + (place * D_STATE + n) * D_INNER + d, mask=mask, other=0.0),)
                spans = spans + (tl.load(span_ptr + place * D_INNER + d, mask=mask, other=0.0),)
            for i in tl.static_range(JOIN):
                decay = tl.where(spans[i] == float("inf"), 0.0, ex2(rate * spans[i]))
                g = decay * g + locals_[i]
        tl.store(carry_ptr + (chunk - 1).to(tl.int64) * (D_STATE * D_INNER) + d, g, mask=inside)


@triton.jit
def sum_rows(source, d, rows, row_stride, D_INNER: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr):
    """The sum over `rows` rows of BLOCK_D fp32, each `row_stride` after the one before."""
    total = tl.zeros((ROWS, BLOCK_D), tl.float32)
    lines = tl.arange(0, ROWS)
    for first in range(0, rows, ROWS):
        row = first + lines
        mask = (row < rows)[:, None] & (d < D_INNER)[None, :]
        total += tl.load(source + row.to(tl.int64)[:, None] * row_stride + d[None, :], mask=mask, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def sum_matrix(
    source,
    target,
    d,
    n,
    places,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Sum (places, d_state, d_inner) over places into target, (d_inner, d_state)."""
    total = sum_rows(source + n * D_INNER, d, places, D_STATE * D_INNER, D_INNER, BLOCK_D, ROWS)
    tl.store(target + d * D_STATE + n, total.to(target.dtype.element_ty), mask=d < D_INNER)


@triton.jit(
    do_not_specialize=[
        "batch",
        "seqlen",
        "tiles",
        "chunks",
        "time_programs",
        "matrix_programs",
        "vector_programs",
    ]
)
def finish_kernel(
    part_ptr,
    dA_parts,
    dB_parts,
    dC_parts,
    dD_parts,
    dbias_parts,
    carry_ptr,
    dA_ptr,
    dB_ptr,
    dC_ptr,
    dD_ptr,
    dbias_ptr,
    ddt_ptr,
    dinitial_ptr,
    part_width,
    batch,
    seqlen,
    tiles,
    chunks,
    time_programs,
    matrix_programs,
    vector_programs,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    PARTS: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Sum the partial gradients, in four ranges of programs: dB and dC; dA (and constant B, C); dD and dt_bias; the initial state."""
    pid = tl.program_id(0)
    BLOCKS: tl.constexpr = (D_INNER + BLOCK_D - 1) // BLOCK_D
    n = tl.arange(0, STATES)
    step = tl.arange(0, TILE)
    if pid < time_programs:
        tile = pid % tiles
        place = (pid // tiles).to(tl.int64)
        row = GROUPS * PARTS * part_width
        at = n[:, None] * row + step[None, :]
        here = (n < D_STATE)[:, None] & (step >= 0)[None, :]
        start = part_ptr + (place // GROUPS * tiles + tile) * (D_STATE * row) + place % GROUPS * PARTS * part_width
        dB = tl.zeros((STATES, TILE), tl.float32)
        dC = tl.zeros((STATES, TILE), tl.float32)
        for i in range(PARTS):
            part = start + i * part_width
            if dB_parts is None:
                dB += tl.load(part + at, mask=here, other=0.0)
            if dC_parts is None:
                dC += tl.load(part + TILE + at, mask=here, other=0.0)
        t = tile.to(tl.int64) * TILE + step
        line = (place // GROUPS * seqlen + t) * GROUPS + place % GROUPS
        target = line[None, :] * D_STATE + n[:, None]
        mask = (n < D_STATE)[:, None] & (t < seqlen)[None, :]
        if dB_parts is None:
            tl.store(dB_ptr + target, dB.to(dB_ptr.dtype.element_ty), mask=mask)
        if dC_parts is None:
            tl.store(dC_ptr + target, dC.to(dC_ptr.dtype.element_ty), mask=mask)
    elif pid < time_programs + matrix_programs:
        matrix = pid - time_programs
        d = matrix % BLOCKS * BLOCK_D + tl.arange(0, BLOCK_D)
        state = matrix // BLOCKS
        places = batch * chunks
        sum_matrix(dA_parts, dA_ptr, d, state, places, D_INNER, D_STATE, BLOCK_D, ROWS)
        if dB_parts is not None:
            sum_matrix(dB_parts, dB_ptr, d, state, places, D_INNER, D_STATE, BLOCK_D, ROWS)
        if dC_parts is not None:
            sum_matrix(dC_parts, dC_ptr, d, state, places, D_INNER, D_STATE, BLOCK_D, ROWS)
    elif pid < time_programs + matrix_programs + vector_programs:
        d = (pid - time_programs - matrix_programs) * BLOCK_D + tl.arange(0, BLOCK_D)
        if dD_ptr is not None:
            total = sum_rows(dD_parts, d, batch * chunks, D_INNER, D_INNER, BLOCK_D, ROWS)
            tl.store(dD_ptr + d, total.to(dD_ptr.dtype.element_ty), mask=d < D_INNER)
        if dbias_ptr is not None or ddt_ptr is not None:
            total = sum_rows(dbias_parts, d, batch * chunks, D_INNER, D_INNER, BLOCK_D, ROWS)
            if dbias_ptr is not None:
                tl.store(dbias_ptr + d, total.to(dbias_ptr.dtype.element_ty), mask=d < D_INNER)
            if ddt_ptr is not None:
                tl.store(ddt_ptr + d, total.to(ddt_ptr.dtype.element_ty), mask=d < D_INNER)
    elif dinitial_ptr is not None:
        place = pid - time_programs - matrix_programs - vector_programs
        d = place % BLOCKS * BLOCK_D + tl.arange(0, BLOCK_D)
        b = (place // BLOCKS).to(tl.int64)
        mask = (d < D_INNER)[:, None] & (n < D_STATE)[None, :]
        source = carry_ptr + b * chunks * (D_STATE * D_INNER)
        values = tl.load(source + n[None, :] * D_INNER + d[:, None], mask=mask, other=0.0)
        target = dinitial_ptr + b * (D_STATE * D_INNER) + d[:, None] * D_STATE + n[None, :]
        tl.store(target, values.to(dinitial_ptr.dtype.element_ty), mask=mask)
