"""Partial sums of dB and dC in 16 bits each, for a backward whose inputs have 16 bits: written by the main kernel, added up after it.

The 32 sums of a state, kind (dB or dC), program and tile share a scale, their largest magnitude / 32767, so that each is off by at most
2**-16 of that magnitude. A program's 128 16-bit places hold two states: dB and dC of the even one, then of the odd.
"""

# The bodies are Triton's language: constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_lanes import lane_flip, load_scratch

TILE = tl.constexpr(32)
LARGEST = tl.constexpr(32767.0)
TINY = tl.constexpr(1e-30)  # a scale below this would have no finite inverse in fp32
TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2**23: a float that is added to it is rounded, to the low bits of the sum


@triton.jit
def magnitude(x):
    """The bits of |x|, which order as the magnitudes do, infinities and then NaN above all."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def larger_of_lanes(bits, distance: tl.constexpr):
    """The larger of a lane's integer and that of the lane whose number differs in the bits of `distance`."""
    other = lane_flip(bits.to(tl.float32, bitcast=True), distance)
    return tl.maximum(bits, other.to(tl.int32, bitcast=True))


@triton.jit
def to_places(first, second, by):
    """Two numbers, times `by` and rounded, as 16-bit integers in one of 32: the first in the low half."""
    low = (first * by + TO_INTEGER).to(tl.int32, bitcast=True) & 0xFFFF
    return low | ((second * by + TO_INTEGER).to(tl.int32, bitcast=True) << 16)


@triton.jit
def add_short_partials(
    scratch, part, scales, row, thread, first_state, D_STATE: tl.constexpr, BLOCK: tl.constexpr, WARPS: tl.constexpr
):
    """As `add_partials`, but into 16-bit integers at `part`, `row` of them after those of two states before, and their scales.

    Eight neighbouring lanes hold the 32 sums that share a scale. `scales`: (2, d_state), of dB and then of dC.
    """
    QUADS: tl.constexpr = 2 * BLOCK * TILE // 4
    tl.static_assert(QUADS % (32 * WARPS) == 0)
    for i in tl.static_range(QUADS // (32 * WARPS)):
        source = thread + i * (32 * WARPS)
        total = load_scratch(scratch, source * 4)
        for w in tl.static_range(1, WARPS):
            more = load_scratch(scratch, w * (2 * BLOCK * TILE) + source * 4)
            total = (total[0] + more[0], total[1] + more[1], total[2] + more[2], total[3] + more[3])
        largest = tl.maximum(
            tl.maximum(magnitude(total[0]), magnitude(total[1])), tl.maximum(magnitude(total[2]), magnitude(total[3]))
        )
        for k in tl.static_range(3):
            largest = larger_of_lanes(largest, 1 << k)
        largest = largest.to(tl.float32, bitcast=True)
        by = LARGEST / tl.maximum(largest, TINY)
        low = to_places(total[0], total[1], by)
        high = to_places(total[2], total[3], by)
        kind = source // (BLOCK * (TILE // 4))
        state = first_state + source // (TILE // 4) % BLOCK
        target = part + state // 2 * row + (state % 2 * 2 + kind) * TILE + source % (TILE // 4) * 4
        word = (low.to(tl.int64) & 0xFFFFFFFF) | (high.to(tl.int64) << 32)
        tl.store(target.to(tl.pointer_type(tl.int64)), word)
        # A sum that is not finite makes the scale so, and with it what all 32 become.
        tl.store(
            scales + kind * D_STATE + state,
            tl.maximum(largest, TINY, tl.PropagateNan.ALL) / LARGEST,
            mask=source % 8 == 0,
        )


@triton.jit(do_not_specialize=["seqlen", "tiles"])
def finish_short_kernel(
    part_ptr,
    scale_ptr,
    dB_ptr,
    dC_ptr,
    part_width,
    seqlen,
    tiles,
    D_STATE: tl.constexpr,
    GROUPS: tl.constexpr,
    PARTS: tl.constexpr,
    STATES: tl.constexpr,
):
    """Sum dB and dC, (batch, seqlen, groups, d_state), over the PARTS programs of a group, in their order. Program = group of a tile.

    Args:
        part_ptr: 16-bit integers (batch, tiles, d_state / 2, programs, part_width), a program's 128 at 128 times its number in a row.
        scale_ptr: fp32 (batch, tiles, programs, 2, d_state).
    """
    pid = tl.program_id(0)
    tile = pid % tiles
    place = (pid // tiles).to(tl.int64)
    group = place % GROUPS
    line = place // GROUPS * tiles + tile
    n = tl.arange(0, STATES)
    step = tl.arange(0, TILE)
    row = GROUPS * PARTS * part_width
    part = part_ptr + line * (D_STATE // 2 * row) + group * (PARTS * 4 * TILE)
    scale = scale_ptr + (line * GROUPS + group) * (PARTS * 2 * D_STATE) + n
    at = n[:, None] // 2 * row + n[:, None] % 2 * (2 * TILE) + step[None, :]
    known = n < D_STATE
    here = known[:, None] & (step >= 0)[None, :]
    dB = tl.zeros((STATES, TILE), tl.float32)
    dC = tl.zeros((STATES, TILE), tl.float32)
    for i in range(PARTS):
        scale_B = tl.load(scale + i * (2 * D_STATE), mask=known, other=0.0)
        scale_C = tl.load(scale + i * (2 * D_STATE) + D_STATE, mask=known, other=0.0)
        dB += tl.load(part + i * (4 * TILE) + at, mask=here, other=0).to(tl.float32) * scale_B[:, None]
        dC += tl.load(part + i * (4 * TILE) + TILE + at, mask=here, other=0).to(tl.float32) * scale_C[:, None]
    t = tile.to(tl.int64) * TILE + step
    target = ((place // GROUPS * seqlen + t) * GROUPS + group)[None, :] * D_STATE + n[:, None]
    mask = known[:, None] & (t < seqlen)[None, :]
    tl.store(dB_ptr + target, dB.to(dB_ptr.dtype.element_ty), mask=mask)
    tl.store(dC_ptr + target, dC.to(dC_ptr.dtype.element_ty), mask=mask)
