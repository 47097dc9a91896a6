"""Steps of the forward scan with products: loads, conversions, and what the tensor cores do; `triton_products` has the kernel."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import ex2, softplus_powers
from kernels.selective_scan.triton_lanes import unpack
from kernels.selective_scan.triton_mma import bits, dropped, lane_of, multiply_add
from kernels.selective_scan.triton_shared import commit_copies, copy_async, get_half, get_two_words, get_word

BLOCK = tl.constexpr(8)
"""Steps of a block: the columns of a product."""


@triton.constexpr_function
def slots_of(d_state):
    """Blocks of a warp in shared memory: this one, and as many to come as there is room for."""
    return 4 if d_state == 16 else 3


@triton.constexpr_function
def pitch_of(d_state):
    """Bytes between rows of B or C in shared memory: no two of four rows meet in a bank."""
    return 2 * d_state if d_state % 32 else 2 * d_state + 32


@triton.constexpr_function
def slot_of(channels, d_state):
    """Bytes of a warp's block as loaded: 8 rows of x, dt and z, then of B and of C."""
    return 384 * channels + 16 * (2 * d_state if d_state % 32 else 2 * d_state + 32)


@triton.jit
def copy_block(memory, lane, own_at, own_rows, B_at, C_at, rows, D_STATE: tl.constexpr, CHANNELS: tl.constexpr):
    """Begin to copy a warp's block of which `rows` rows are left: 16 bytes of x, dt or z, and 8 of B and of C, a lane and copy."""
    for i in tl.static_range(CHANNELS):
        chunk = tl.minimum(lane + 32 * i, 24 * CHANNELS - 1)
        copy_async(memory, chunk * 16, own_at[i], 16, rows > own_rows[i])
    PITCH: tl.constexpr = pitch_of(D_STATE)
    row = lane >> 2
    place = 384 * CHANNELS + row * PITCH + (lane & 3) * 8
    for i in tl.static_range(D_STATE // 16):
        copy_async(memory, place + 32 * i, B_at + 16 * i, 8, rows > row)
        copy_async(memory, place + (8 * PITCH + 32 * i), C_at + 16 * i, 8, rows > row)
    commit_copies(lane)


@triton.jit
def get_elements(memory, place, FIRST: tl.constexpr, COUNT: tl.constexpr, CHANNELS: tl.constexpr):
    """A lane's elements of x (0), dt (1), z (2), COUNT of them from FIRST on, at two steps four apart each, as bits."""
    out = ()
    for i in tl.static_range(2 * COUNT):
        at = place + ((FIRST + i // 2) * 128 + i % 2 * 64) * CHANNELS
        out = out + ((get_word(memory, at) if CHANNELS == 2 else get_half(memory, at)),)
    return out


@triton.jit
def get_B(memory, place, D_STATE: tl.constexpr):
    """A block of B in words of two states, two steps four apart."""
    out = ()
    for group in tl.static_range(D_STATE // 16):
        for quad in tl.static_range(2):
            out = out + (get_word(memory, place + (quad * 4 * pitch_of(D_STATE) + 32 * group)),)
    return out


@triton.jit
def get_C(memory, place, D_STATE: tl.constexpr):
    """A block of C in words of two states, a step a lane."""
    out = ()
    for group in tl.static_range(D_STATE // 16):
        out = out + get_two_words(memory, place + 32 * group)
    return out


@triton.jit
def channels_of(word, CHANNELS: tl.constexpr):
    """The bf16 channels of a word as fp32."""
    if CHANNELS == 2:
        values = unpack(word, tl.bfloat16)
    else:
        values = ((word << 16).to(tl.float32, bitcast=True),)
    return values


@triton.jit
def convert(elements, bias, skip, left, DT_SOFTPLUS: tl.constexpr, CHANNELS: tl.constexpr, MASKED: tl.constexpr):
    """What the scan needs of a block's x and dt: step sizes, inflows dt x and skips D x."""
    steps = ()
    inflows = ()
    skips = ()
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
    return steps, inflows, skips


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
        word = Cs[n]
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
