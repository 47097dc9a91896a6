"""Device helpers of the scan with complex A: the decay, sums over lanes, and the kernel that lays out A, B and C.

Every tensor of the scanning kernels has one element per thread (`triton_lanes` says why). A warp is four channels of eight lanes:
lane = 8 * channel + share. A lane holds R of the 8 R states that a program serves, and of a block of STEPS = 8 positions it is the
lane of share i that converts and finishes position i. A complex number is two registers.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import INTERPRETED, ex2
from kernels.selective_scan.triton_lanes import lane_flip, load_quad_constant

STEPS = tl.constexpr(8)
"""Positions of a block, and lanes that share a channel."""

MAGIC = tl.constexpr(
    12582912.0
)  # 1.5 * 2**23: what is added to it is rounded to an integer, whose parity is the lowest bit
SMALL = tl.constexpr(0.1875)  # an exponent of two below which a state lives for more than eight steps
PI = tl.constexpr(3.14159274101257324)  # pi rounded to fp32; the rest is in the first coefficient of the sine

if INTERPRETED:

    @triton.jit
    def of_position(x, index: tl.constexpr):
        """x of the lane among the same eight whose share is `index`."""
        return tl.gather(x, (tl.arange(0, x.shape[0]) & -8) | index, axis=0)

else:

    @triton.jit
    def of_position(x, index: tl.constexpr):
        """x of the lane among the same eight whose share is `index`."""
        source = tl.full(x.shape, index, tl.int32)
        return tl.inline_asm_elementwise(
            "shfl.sync.idx.b32 $0, $1, $2, 0x181f, 0xffffffff;",
            "=f,f,r",
            [x, source],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def decay(step, scaled, rate):
    """exp(step A) as (real, imaginary); `scaled` is step * log2(e), `rate` a quad of `lay_kernel`.

    In half turns the angle is step * (rate[2] + rate[3]). Its nearest integer is taken off by fused multiply-adds, exactly,
    so that what is left, within half of a half turn, is off by 2**-25 of one however large the angle is, up to 2**22 half
    turns. Sine and cosine of it are polynomials in its square; an odd integer turns both signs, which the magnitude takes.
    Near one the magnitude is a polynomial too, good to half of its last bit: states that live for many steps would add up
    what `ex2` is off, which is the same at every step where dt is constant.
    """
    magic = tl.full(step.shape, MAGIC, tl.float32)
    rounded = tl.fma(step, rate[2], magic)
    angle = tl.fma(step, rate[3], tl.fma(step, rate[2], magic - rounded))
    square = angle * angle
    sine = -0.5982921719551086 + square * 0.07765940576791763
    sine = -5.167710304260254 + square * (2.5500776767730713 + square * sine)
    sine = tl.fma(angle, tl.full(step.shape, PI, tl.float32), angle * (-1.0082865742333524e-07 + square * sine))
    cosine = 0.23508019745349884 + square * -0.024637587368488312
    cosine = 4.058711528778076 + square * (-1.3352410793304443 + square * cosine)
    cosine = 1.0 + square * (-4.934802055358887 + square * cosine)
    growth = scaled * rate[0]
    near_one = 0.24022677540779114 + growth * (0.05556202679872513 + growth * 0.009613657370209694)
    near_one = 1.0 + growth * (0.6931467056274414 + growth * near_one)
    size = tl.where(tl.abs(growth) < SMALL, near_one, ex2(growth))
    size = size.to(tl.int32, bitcast=True) ^ (rounded.to(tl.int32, bitcast=True) << 31)
    size = size.to(tl.float32, bitcast=True)
    return size * cosine, size * sine


@triton.jit
def exchange(first, second, upper, DISTANCE: tl.constexpr):
    """The sum over two lanes DISTANCE apart: of `second` in the lane that is `upper`, of `first` in the other."""
    return tl.where(upper, second, first) + lane_flip(tl.where(upper, first, second), DISTANCE)


@triton.jit
def own_position(values, share):
    """Of sums over a lane's states for each of the eight positions, the sum over the channel's lanes for the lane's own."""
    four = ()
    for i in tl.static_range(4):
        four = four + (exchange(values[i], values[i + 4], (share & 4) != 0, 4),)
    two = ()
    for i in tl.static_range(2):
        two = two + (exchange(four[i], four[i + 2], (share & 2) != 0, 2),)
    return exchange(two[0], two[1], (share & 1) != 0, 1)


@triton.jit
def in_all_positions(value):
    """What the eight lanes of a channel have for their own positions: a tuple, the same in all of them."""
    out = ()
    for i in tl.static_range(STEPS):
        out = out + (of_position(value, i),)
    return out


@triton.jit
def state_quads(pointers, R: tl.constexpr):
    """The quads of the lane's R states, which lie one after the other."""
    out = ()
    for r in tl.static_range(R):
        out = out + (load_quad_constant(pointers + 4 * r),)
    return out


@triton.jit
def quads_of(packed, constants, B_CONSTANT: tl.constexpr, C_CONSTANT: tl.constexpr, R: tl.constexpr):
    """B and 2 C of the lane's states at a position: (re B, im B, re 2C, im 2C) each."""
    out = ()
    if B_CONSTANT and C_CONSTANT:
        out = constants
    else:
        for r in tl.static_range(R):
            quad = load_quad_constant(packed + 4 * r)
            if B_CONSTANT:
                out = out + ((constants[r][0], constants[r][1], quad[2], quad[3]),)
            elif C_CONSTANT:
                out = out + ((quad[0], quad[1], constants[r][2], constants[r][3]),)
            else:
                out = out + (quad,)
    return out


@triton.jit
def load_states(pointer, n, inside, D_STATE: tl.constexpr, R: tl.constexpr, WHOLE: tl.constexpr):
    """The lane's states from state n on, (re, im) pairs at `pointer`: a flat tuple. WHOLE: states beyond D_STATE are there."""
    out = ()
    for r in tl.static_range(R):
        mask = inside if WHOLE else inside & (n + r < D_STATE)
        out = out + (
            tl.load(pointer + 2 * (n + r), mask=mask, other=0.0),
            tl.load(pointer + 2 * (n + r) + 1, mask=mask, other=0.0),
        )
    return out


@triton.jit
def store_states(pointer, n, states, inside, D_STATE: tl.constexpr, R: tl.constexpr, WHOLE: tl.constexpr):
    """The reverse of `load_states`."""
    for r in tl.static_range(R):
        mask = inside if WHOLE else inside & (n + r < D_STATE)
        tl.store(pointer + 2 * (n + r), states[2 * r], mask=mask)
        tl.store(pointer + 2 * (n + r) + 1, states[2 * r + 1], mask=mask)


@triton.jit(do_not_specialize=["seqlen", "rows", "time_programs"])
def lay_kernel(
    A_ptr,
    B_ptr,
    C_ptr,
    rates_ptr,
    packed_ptr,
    constants_ptr,
    seqlen,
    rows,
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
    PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    B_CONSTANT: tl.constexpr,
    C_CONSTANT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Lay out A, B and C as quads of fp32 for PADDED states, zeros beyond D_STATE and beyond the end. Strides count fp32.

    Programs below `time_programs`: BLOCK of the `rows` positions of one group to packed (batch, group, rows, PADDED, 4), B and 2 C.
    The others: BLOCK channels to rates (d_inner, PADDED, 4), the real part of A, its imaginary part, and that in half turns as
    two fp32, and to constants (d_inner, PADDED, 4), B and 2 C where they are constant (strides: channel, -, -, state).
    """
    pid = tl.program_id(0)
    n = tl.arange(0, WIDTH)[None, :]
    line = tl.arange(0, BLOCK)[:, None]
    if pid < time_programs:
        blocks = tl.cdiv(rows, BLOCK)
        place = (pid // blocks).to(tl.int64)
        t = (pid % blocks).to(tl.int64) * BLOCK + line
        here = (t < seqlen) & (n < D_STATE)
        inside = (t < rows) & (n < PADDED)
        target = packed_ptr + ((place * rows + t) * PADDED + n) * 4
        if not B_CONSTANT:
            B = B_ptr + place // GROUPS * B_batch + place % GROUPS * B_group + t * B_time + n * B_state
            tl.store(target, tl.load(B, mask=here, other=0.0), mask=inside)
            tl.store(target + 1, tl.load(B + 1, mask=here, other=0.0), mask=inside)
        if not C_CONSTANT:
            C = C_ptr + place // GROUPS * C_batch + place % GROUPS * C_group + t * C_time + n * C_state
            tl.store(target + 2, 2 * tl.load(C, mask=here, other=0.0), mask=inside)
            tl.store(target + 3, 2 * tl.load(C + 1, mask=here, other=0.0), mask=inside)
    else:
        d = ((pid - time_programs) * BLOCK + line).to(tl.int64)
        here = (d < D_INNER) & (n < D_STATE)
        inside = (d < D_INNER) & (n < PADDED)
        A = A_ptr + d * A_channel + n * A_state
        turning = tl.load(A + 1, mask=here, other=0.0)
        half_turns = turning.to(tl.float64) * 0.3183098861837907
        upper = half_turns.to(tl.float32)
        lower = (half_turns - upper.to(tl.float64)).to(tl.float32)
        target = rates_ptr + (d * PADDED + n) * 4
        tl.store(target, tl.load(A, mask=here, other=0.0), mask=inside)
        tl.store(target + 1, turning, mask=inside)
        tl.store(target + 2, upper, mask=inside)
        tl.store(target + 3, lower, mask=inside)
        target = constants_ptr + (d * PADDED + n) * 4
        if B_CONSTANT:
            B = B_ptr + d * B_batch + n * B_state
            tl.store(target, tl.load(B, mask=here, other=0.0), mask=inside)
            tl.store(target + 1, tl.load(B + 1, mask=here, other=0.0), mask=inside)
        if C_CONSTANT:
            C = C_ptr + d * C_batch + n * C_state
            tl.store(target + 2, 2 * tl.load(C, mask=here, other=0.0), mask=inside)
            tl.store(target + 3, 2 * tl.load(C + 1, mask=here, other=0.0), mask=inside)


@triton.jit(do_not_specialize=["parts"])
def join_kernel(
    ends_ptr,
    entry_ptr,
    parts,
    entry_batch,
    entry_channel,
    entry_state,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    PADDED: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Turn what leaves each part of a split sequence when nothing enters it into what enters it, in place.

    ends is (batch, parts, d_inner, PADDED, 4): what leaves, and the part's decay. The first two of each four become what
    enters; entry, or zero, enters the first part, or going backward, by conjugate decays, the last.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(1).to(tl.int64)
    inside = place < D_INNER * PADDED
    n = place % PADDED
    re = tl.zeros((BLOCK,), tl.float32)
    im = tl.zeros((BLOCK,), tl.float32)
    if entry_ptr is not None:
        entry = entry_ptr + b * entry_batch + (place // PADDED).to(tl.int64) * entry_channel + n * entry_state
        re = tl.load(entry, mask=inside & (n < D_STATE), other=0.0)
        im = tl.load(entry + 1, mask=inside & (n < D_STATE), other=0.0)
    for k in range(parts):
        part = (parts - 1 - k) if BACKWARD else k
        here = ends_ptr + ((b * parts + part) * (D_INNER * PADDED) + place) * 4
        end_re = tl.load(here, mask=inside, other=0.0)
        end_im = tl.load(here + 1, mask=inside, other=0.0)
        a_re = tl.load(here + 2, mask=inside, other=0.0)
        a_im = tl.load(here + 3, mask=inside, other=0.0)
        if BACKWARD:
            a_im = -a_im
        tl.store(here, re, mask=inside)
        tl.store(here + 1, im, mask=inside)
        closed = (a_re == 0.0) & (a_im == 0.0)  # by a reset, perhaps: what is infinite must not pass either
        next_re = end_re + tl.where(closed, 0.0, a_re * re - a_im * im)
        im = end_im + tl.where(closed, 0.0, a_re * im + a_im * re)
        re = next_re
