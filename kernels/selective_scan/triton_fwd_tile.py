"""What a tile of the general forward scan begins with: rows touched ahead, elements converted, and how lanes are joined."""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import load_channels, load_floats, softplus, take_lane

CHECKPOINT_STEPS = tl.constexpr(32)
MAX_CARRIES = tl.constexpr(32)
"""Up to so many states are carried from tile to tile in registers; more of them through scratch memory."""


@triton.jit
def state_floats(pointer, d, COUNT: tl.constexpr, D_STATE: tl.constexpr, ALIGNED: tl.constexpr):
    """Load the first COUNT elements of row d of a (d_inner, d_state) fp32 matrix: a tuple."""
    out = ()
    if ALIGNED:
        out = load_floats(pointer + d * D_STATE, COUNT)
    else:
        for i in tl.static_range(COUNT):
            out = out + (tl.load(pointer + d * D_STATE + i),)
    return out


@triton.constexpr_function
def touch_count(pointer, rows, columns, warps):
    """How many loads per thread `touch_rows` issues."""
    sectors = -(-columns * pointer.dtype.element_ty.primitive_bitwidth // 256)
    return -(-rows * sectors // (32 * warps))


@triton.jit
def touch_rows(
    pointer,
    first,
    last,
    room,
    thread,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Load one element of every sector of ROWS rows from row `first`: a tuple, to be used a tile later.

    Never beyond row `last` nor beyond the first `room` elements of a row.

    A prefetch instruction would bring them to L2 alone.
    """
    SECTOR: tl.constexpr = 256 // pointer.dtype.element_ty.primitive_bitwidth
    SECTORS: tl.constexpr = (COLUMNS + SECTOR - 1) // SECTOR
    out = ()
    for i in tl.static_range((ROWS * SECTORS + THREADS - 1) // THREADS):
        sector = tl.minimum(thread + i * THREADS, ROWS * SECTORS - 1)
        row = tl.minimum(first + sector // SECTORS, last)
        column = tl.minimum((sector % SECTORS) * SECTOR, room - 1)
        out = out + (tl.load(pointer + row.to(tl.int64) * STRIDE + column).to(tl.float32),)
    return out


@triton.jit
def convert_tile(
    x_at,
    dt_at,
    fixed,
    skip,
    bias,
    left,
    zero,
    X_STRIDE: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    DT_SOFTPLUS: tl.constexpr,
    DT_CONSTANT: tl.constexpr,
    MASKED: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A thread's elements: step sizes, inputs dt x, the skip as the first term of y, and the sums of step sizes by channel."""
    dts = ()
    dus = ()
    ys = ()
    totals = ()
    for _ in tl.static_range(CHANNELS):
        totals = totals + (zero,)
    for i in tl.static_range(STEPS):
        valid = left > i
        xs = load_channels(x_at + i * X_STRIDE, valid, MASKED, CHANNELS)
        if DT_CONSTANT:
            raw = fixed
        else:
            raw = load_channels(dt_at + i * DT_STRIDE, valid, MASKED, CHANNELS)
        sums = ()
        for c in tl.static_range(CHANNELS):
            step = raw[c]
            if len(bias) > 0:
                step = step + bias[c]
            if DT_SOFTPLUS:
                step = softplus(step)
            if MASKED:
                step = tl.where(valid, step, 0.0)
            dts = dts + (step,)
            dus = dus + (step * xs[c],)
            if len(skip) > 0:
                ys = ys + (skip[c] * xs[c],)
            else:
                ys = ys + (zero,)
            sums = sums + (totals[c] + step,)
        totals = sums
    return dts, dus, ys, totals


@triton.jit
def read_resets(pointer, left, hit, MASKED: tl.constexpr, STEPS: tl.constexpr):
    """Whether each of a thread's positions keeps what enters it, and whether one of them (or `hit`) does not."""
    keeps = ()
    for i in tl.static_range(STEPS):
        if MASKED:
            flag = tl.load(pointer + i, mask=left > i, other=0).to(tl.int32)
        else:
            flag = tl.load(pointer + i).to(tl.int32)
        keeps = keeps + (flag == 0,)
        hit = tl.maximum(hit, flag)
    return keeps, hit


@triton.jit
def span_of(elapsed, broken, lane, LEVELS: tl.constexpr):
    """The sum of dt of a split, over the lanes of a channel; infinite where one of them had a reset."""
    span = elapsed
    cut = broken
    for k in tl.static_range(LEVELS):
        span = span + take_lane(span, lane ^ (1 << k))
        cut = tl.maximum(cut, take_lane(cut, lane ^ (1 << k)))
    return tl.where(cut > 0, float("inf"), span)


@triton.jit
def plan_joins(totals, hit, previous, row0, block, LEVELS: tl.constexpr, RESET: tl.constexpr, CHANNELS: tl.constexpr):
    """How lanes are joined: level k adds to a block what leaves the block 2**k before it, decayed over the blocks between.

    The lane that each level takes from, whether it does (no reset lies between), and the sums of dt of the decays.
    """
    links = ()
    joins = ()
    spans = ()
    runs = ()
    for c in tl.static_range(CHANNELS):
        if LEVELS > 0:
            runs = runs + (take_lane(totals[c], previous),)
    run_hit = hit
    if RESET and LEVELS > 0:
        run_hit = take_lane(hit, previous)
    for k in tl.static_range(LEVELS):
        link = row0 + tl.maximum(block - (1 << k), 0)
        links = links + (link,)
        join = block >= (1 << k)
        if RESET:
            join = join & (run_hit == 0)
            run_hit = tl.maximum(run_hit, take_lane(run_hit, link))
        joins = joins + (join,)
        longer = ()
        for c in tl.static_range(CHANNELS):
            spans = spans + (runs[c],)
            longer = longer + (runs[c] + take_lane(runs[c], link),)
        runs = longer
    return links, joins, spans
