"""Steps of the forward scan with products: loads, conversions, and what the tensor cores do; `triton_products` has the kernel."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import ex2, softplus_powers
from kernels.selective_scan.triton_lanes import unpack
from kernels.selective_scan.triton_mma import bits, dropped, lane_of, load_half, multiply_add


@triton.jit
def load_words(pointer, offset, mask, CHANNELS: tl.constexpr, MASKED: tl.constexpr):
    """One channel, or two neighbours, of a bf16 row as bits in an int32; zeros where masked."""
    if CHANNELS == 2:
        wide = pointer.to(tl.pointer_type(tl.int32)) + offset
        if MASKED:
            word = tl.load(wide, mask=mask, other=0)
        else:
            word = tl.load(wide)
    else:
        word = load_half(pointer + offset, mask, MASKED)
    return word


@triton.jit
def load_elements(
    x_row,
    dt_row,
    z_row,
    lanes,
    left,
    X: tl.constexpr,
    DT: tl.constexpr,
    Z: tl.constexpr,
    GATED: tl.constexpr,
    CHANNELS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """A lane's elements of a block, at two steps four apart of which those from `left` on are zero: x, dt, z, as bits."""
    out = ()
    for k in tl.static_range(2):
        out = out + (load_words(x_row, lanes[0] + k * (4 * X // CHANNELS), left > 4 * k, CHANNELS, MASKED),)
    for k in tl.static_range(2):
        out = out + (load_words(dt_row, lanes[1] + k * (4 * DT // CHANNELS), left > 4 * k, CHANNELS, MASKED),)
    if GATED:
        for k in tl.static_range(2):
            out = out + (load_words(z_row, lanes[2] + k * (4 * Z // CHANNELS), left > 4 * k, CHANNELS, MASKED),)
    return out


@triton.jit
def channels_of(word, CHANNELS: tl.constexpr):
    """The bf16 channels of `load_words` as fp32."""
    if CHANNELS == 2:
        values = unpack(word, tl.bfloat16)
    else:
        values = ((word << 16).to(tl.float32, bitcast=True),)
    return values


@triton.jit
def convert(
    elements,
    bias,
    skip,
    left,
    DT_SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
    CHANNELS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """What the scan needs of a block's elements: step sizes, inflows dt x, skips D x, and z as it is."""
    steps = ()
    inflows = ()
    skips = ()
    gates = ()
    for k in tl.static_range(2):
        xs = channels_of(elements[k], CHANNELS)
        raw = channels_of(elements[2 + k], CHANNELS)
        for c in tl.static_range(CHANNELS):
            step = raw[c] + bias[c]
            if DT_SOFTPLUS:
                step = softplus_powers(step)
            if MASKED:
                step = tl.where(left > 4 * k, step, 0.0)
            steps = steps + (step,)
            inflows = inflows + (step * xs[c],)
            skips = skips + (skip[c] * xs[c],)
        if GATED:
            gates = gates + (elements[4 + k],)
    return steps, inflows, skips, gates


@triton.jit
def load_B(row, lane, first, last, stride: tl.constexpr, GROUPS: tl.constexpr, MASKED: tl.constexpr):
    """A block of B in words of two states, two steps four apart; with MASKED never beyond row `last`, lane's first being `first`."""
    out = ()
    for group in tl.static_range(GROUPS):
        for quad in tl.static_range(2):
            at = quad * 4
            if MASKED:
                at = tl.minimum(first + quad * 4, last) - first
            out = out + (tl.load((row + lane + at * stride).to(tl.pointer_type(tl.int32)) + group * 8),)
    return out


@triton.jit
def load_C(row, lane, first, last, stride: tl.constexpr, GROUPS: tl.constexpr, MASKED: tl.constexpr):
    """A block of C in words of four states, a step a lane; with MASKED never beyond row `last`."""
    out = ()
    for group in tl.static_range(GROUPS):
        at = 0
        if MASKED:
            at = tl.minimum(first, last) - first
        out = out + (tl.load((row + lane + at * stride).to(tl.pointer_type(tl.int64)) + group * 4),)
    return out


@triton.jit
def decays_of(steps, rates, sources, k: tl.constexpr, s: tl.constexpr, CHANNELS: tl.constexpr):
    """The decays of a step, or of two where there is one channel: of the states of row g, then of row g + 8."""
    STATES: tl.constexpr = len(rates) // CHANNELS
    if CHANNELS == 2:
        first, second = lane_of(steps[2 * k], sources[s]), lane_of(steps[2 * k + 1], sources[s])
    else:
        first, second = lane_of(steps[k], sources[2 * s]), lane_of(steps[k], sources[2 * s + 1])
    out = ()
    for n in tl.static_range(STATES):
        out = out + (ex2(first * rates[n]),)
    for n in tl.static_range(STATES):
        out = out + (ex2(second * rates[(CHANNELS - 1) * STATES + n]),)
    return out


@triton.jit
def inflows_of(inflows, words, mine, none, zero, k: tl.constexpr, s: tl.constexpr, CHANNELS: tl.constexpr):
    """dt x B of a step, or of two where there is one channel: of the states of row g, then of row g + 8."""
    if CHANNELS == 2:
        left = (
            bits(inflows[2 * k]),
            bits(inflows[2 * k + 1]),
            dropped(inflows[2 * k]),
            dropped(inflows[2 * k + 1]),
        )
    else:
        left = (
            tl.where(mine[2 * s], bits(inflows[k]), none),
            tl.where(mine[2 * s + 1], bits(inflows[k]), none),
            tl.where(mine[2 * s], dropped(inflows[k]), none),
            tl.where(mine[2 * s + 1], dropped(inflows[k]), none),
        )
    first = ()
    second = ()
    for group in tl.static_range(len(words) // 2):
        low, high = words[2 * group + k] << 16, words[2 * group + k] & -65536
        if CHANNELS == 2:
            low, high = tl.where(mine[s], low, none), tl.where(mine[s], high, none)
        even = multiply_add(left, (low, low), (zero, zero, zero, zero))
        odd = multiply_add(left, (high, high), (zero, zero, zero, zero))
        first = first + (even[0], odd[0], even[1], odd[1])
        second = second + (even[2], odd[2], even[3], odd[3])
    return first + second


@triton.jit
def advance(h, decays, inflows, CHANNELS: tl.constexpr):
    """The states after a step of row g and of row g + 8: of two channels, or of two steps of one."""
    STATES: tl.constexpr = len(h) // CHANNELS
    first = ()
    second = ()
    for n in tl.static_range(STATES):
        first = first + (decays[n] * h[n] + inflows[n],)
    for n in tl.static_range(STATES):
        if CHANNELS == 2:
            second = second + (decays[STATES + n] * h[STATES + n] + inflows[STATES + n],)
        else:
            second = second + (decays[STATES + n] * first[n] + inflows[STATES + n],)
    return first, second


@triton.jit
def contract(first, second, Cs, zero):
    """The products of two rows of states with C at each of the block's steps, a column a step."""
    total = (zero, zero, zero, zero)
    for n in tl.static_range(len(first) // 2):
        word = Cs[n // 2].to(tl.int32) if n % 2 == 0 else (Cs[n // 2] >> 32).to(tl.int32)
        total = multiply_add(
            (bits(first[2 * n]), bits(second[2 * n]), bits(first[2 * n + 1]), bits(second[2 * n + 1])),
            (word << 16, word & -65536),
            total,
        )
    return total


@triton.jit
def pick(total, sums, mine, k: tl.constexpr, s: tl.constexpr, CHANNELS: tl.constexpr):
    """The sums with those of a step, or two, in the lane that finishes it: columns 2 q + k of a product are step q's."""
    out = ()
    for i in tl.static_range(2 * CHANNELS):
        if i // CHANNELS != k:
            out = out + (sums[i],)
        elif CHANNELS == 2:
            out = out + (tl.where(mine[s], total[k + 2 * (i % 2)], sums[i]),)
        else:
            out = out + (tl.where(mine[2 * s + 1], total[k + 2], tl.where(mine[2 * s], total[k], sums[i])),)
    return out
