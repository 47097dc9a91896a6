"""Triton kernels around the forward scan: the packing of B and C before it, and the pass over the states of splits."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import LOG2E, ex2


@triton.jit
def pack_kernel(
    B_ptr,
    C_ptr,
    packed_ptr,
    seqlen,
    tiles,
    b_stride_batch,
    b_stride_time,
    b_stride_group,
    b_stride_state,
    c_stride_batch,
    c_stride_time,
    c_stride_group,
    c_stride_state,
    D_STATE: tl.constexpr,
    STATE_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    STEPS: tl.constexpr,
    QUAD: tl.constexpr,
    SHARES: tl.constexpr,
):
    """Write B and C in fp32 in the order in which the lanes of a warp read them, so that every load is one stretch; zeros beyond the end.

    SHARES 0: (batch, group, tile, state, B|C, step / QUAD, lane block, QUAD), for `scan_kernel`.
    Else: (batch, group, tile, step, share, B|C, state within the share), for `lean_kernel`.
    A constant B or C (None here) leaves its part unwritten.
    """
    tile = tl.program_id(0)
    group = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    TILE: tl.constexpr = BLOCKS * STEPS
    step = tl.arange(0, TILE)[:, None]
    state = tl.arange(0, STATE_BLOCK)[None, :]
    time = tile.to(tl.int64) * TILE + step
    block = step // STEPS
    within = step % STEPS
    if SHARES == 0:
        place = state * (2 * TILE) + ((within // QUAD) * BLOCKS + block) * QUAD + within % QUAD
        APART: tl.constexpr = TILE
    else:
        APART: tl.constexpr = D_STATE // SHARES
        place = step * (2 * D_STATE) + (state // APART) * (2 * APART) + state % APART
    out = packed_ptr + ((batch * tl.num_programs(1) + group) * tiles + tile) * (D_STATE * 2 * TILE)
    inside = state < D_STATE
    mask = inside & (time < seqlen)
    if B_ptr is not None:
        B = tl.load(
            B_ptr + batch * b_stride_batch + group * b_stride_group + time * b_stride_time + state * b_stride_state,
            mask=mask,
            other=0.0,
        )
        tl.store(out + place, B.to(tl.float32), mask=inside & (step >= 0))
    if C_ptr is not None:
        C = tl.load(
            C_ptr + batch * c_stride_batch + group * c_stride_group + time * c_stride_time + state * c_stride_state,
            mask=mask,
            other=0.0,
        )
        tl.store(out + APART + place, C.to(tl.float32), mask=inside & (step >= 0))


@triton.jit
def pass_kernel(
    states_ptr,
    spans_ptr,
    A_ptr,
    initial_ptr,
    final_ptr,
    splits,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """Turn the end states of the splits, scanned from zero, into the states that enter them, in place; write the final state.

    A span (sum of dt) of infinity marks a split with a reset: nothing from before it survives.
    """
    d = tl.program_id(0) * CHANNEL_BLOCK + tl.arange(0, CHANNEL_BLOCK)
    n = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    mask = d < D_INNER
    a = tl.load(A_ptr + d * D_STATE + n, mask=mask, other=0.0) * LOG2E
    boundary = (batch * D_INNER + d) * D_STATE + n
    if initial_ptr is not None:
        h = tl.load(initial_ptr + boundary, mask=mask, other=0.0)
    else:
        h = tl.zeros((CHANNEL_BLOCK,), tl.float32)
    for split in range(splits):
        states = states_ptr + ((batch * splits + split) * D_STATE + n) * D_INNER + d
        end = tl.load(states, mask=mask, other=0.0)
        span = tl.load(spans_ptr + (batch * splits + split) * D_INNER + d, mask=mask, other=0.0)
        tl.store(states, h, mask=mask)
        h = tl.where(span == float("inf"), 0.0, ex2(a * span)) * h + end
    tl.store(final_ptr + boundary, h, mask=mask)
