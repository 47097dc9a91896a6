# mypy: ignore-errors
"""The causal depthwise convolution, channel-last, in Triton: the forward pass for usual widths, and the decode step.

A tap that looks `back` positions back has weight[:, width - 1 - back]. A window is walked from its own position backwards;
it stays `alive` until it has taken in a position that resets.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import sigmoid


@triton.jit
def tap(weight_ptr, channel, channel_mask, back, stride_weight_d, stride_weight_w, WIDTH: tl.constexpr):
    source = weight_ptr + channel * stride_weight_d + (WIDTH - 1 - back) * stride_weight_w
    return tl.load(source, mask=channel_mask, other=0.0).to(tl.float32)


# Whether positions lie in the sequence; one comparison, since a negative one is large without its sign.
@triton.jit
def within(at, seqlen):
    return at.to(tl.uint32, bitcast=True) < (at * 0 + seqlen).to(tl.uint32, bitcast=True)


# x at one position (from the initial state before position 0), one row of channels; 0 outside.
@triton.jit
def row_at(x_ptr, initial_ptr, at, offset_x, offset_initial, channel_mask, seqlen, stride_x_t, stride_initial_t, WIDTH: tl.constexpr,
         HAS_INITIAL: tl.constexpr):  # fmt: skip
    value = tl.load(x_ptr + at.to(tl.int64) * stride_x_t + offset_x, mask=channel_mask & within(at, seqlen), other=0.0)
    if HAS_INITIAL:
        source = initial_ptr + (at + WIDTH - 1).to(tl.int64) * stride_initial_t + offset_initial
        before = tl.load(source, mask=channel_mask & (at < 0) & (at >= 1 - WIDTH), other=0.0)
        value = value.to(tl.float32) + before.to(tl.float32)
    return value


@triton.jit
def resets_at(reset_ptr, at, seqlen, stride_reset_t):
    return tl.load(reset_ptr + at.to(tl.int64) * stride_reset_t, mask=within(at, seqlen), other=0) != 0


# Program: one (batch, chunk, block of channels), channels fastest. Rows of its tiles are its walks, a warp each, which go through
# ROWS positions forwards side by side with the last width - 1 values of x in registers. One more chunk writes the final state.
@triton.jit
def conv_forward(x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, y_ptr, final_ptr, seqlen, d, chunks,
                 stride_x_batch, stride_x_t, stride_x_d, stride_weight_d, stride_weight_w, stride_bias, stride_initial_batch,
                 stride_initial_t, stride_initial_d, stride_reset_batch, stride_reset_t, WIDTH: tl.constexpr,
                 SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr,
                 WALKS: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    blocks_d = tl.cdiv(d, BLOCK_D)
    program = tl.program_id(0)
    chunk = (program // blocks_d) % (chunks + 1)
    batch = (program // blocks_d // (chunks + 1)).to(tl.int64)
    channel = ((program % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)[None, :]
    channel_mask = channel < d
    x_ptr += batch * stride_x_batch
    initial_ptr += batch * stride_initial_batch
    reset_ptr += batch * stride_reset_batch
    offset_x = channel * stride_x_d
    offset_initial = channel * stride_initial_d
    if chunk == chunks:
        last = chunk * 0 + seqlen - 1
        kept = last == last
        for back in tl.static_range(WIDTH - 1):
            at = last - back
            final = row_at(x_ptr, initial_ptr, at, offset_x, offset_initial, channel_mask & kept, seqlen, stride_x_t,
                           stride_initial_t, WIDTH, HAS_INITIAL)  # fmt: skip
            row = final_ptr + (batch * (WIDTH - 1) + (WIDTH - 2 - back)) * d + channel
            tl.store(row, final.to(final_ptr.dtype.element_ty), mask=channel_mask)
            if HAS_RESET:
                kept = kept & (resets_at(reset_ptr, at, seqlen, stride_reset_t) == 0)
    else:
        first = (chunk * WALKS + tl.arange(0, WALKS)[:, None]) * ROWS
        bias = tl.zeros((1, BLOCK_D), tl.float32)
        if HAS_BIAS:
            bias = tl.load(bias_ptr + channel * stride_bias, mask=channel_mask, other=0.0).to(tl.float32)
        weight = (tap(weight_ptr, channel, channel_mask, 0, stride_weight_d, stride_weight_w, WIDTH),)
        window = ()  # x at t - 1, ..., t - width + 1
        cut = ()  # whether each of these positions resets
        for back in tl.static_range(1, WIDTH):
            weight = weight + (tap(weight_ptr, channel, channel_mask, back, stride_weight_d, stride_weight_w, WIDTH),)
            value = row_at(x_ptr, initial_ptr, first - back, offset_x, offset_initial, channel_mask, seqlen, stride_x_t,
                           stride_initial_t, WIDTH, HAS_INITIAL)  # fmt: skip
            window = window + (value.to(tl.float32),)
            if HAS_RESET:
                cut = cut + (resets_at(reset_ptr, first - back, seqlen, stride_reset_t),)
        rows = ()
        source = x_ptr + first.to(tl.int64) * stride_x_t + offset_x
        place = y_ptr + (batch * seqlen + first) * d + channel
        for step in tl.static_range(ROWS):  # a walk's loads come before its stores, which would hold them up
            rows = rows + (tl.load(source, mask=channel_mask & (first + step < seqlen), other=0.0),)
            source += stride_x_t
        for step in tl.static_range(ROWS):
            t = first + step
            x = rows[step].to(tl.float32)
            total = bias + weight[0] * x
            moved = (x,)
            if HAS_RESET:
                cutting = resets_at(reset_ptr, t, seqlen, stride_reset_t)
                alive = cutting == 0
                cmoved = (cutting,)
                for back in tl.static_range(1, WIDTH):
                    total += tl.where(alive, weight[back] * window[back - 1], 0.0)
                    alive = alive & (cut[back - 1] == 0)
                for back in tl.static_range(WIDTH - 2):
                    cmoved = cmoved + (cut[back],)
                cut = cmoved
            else:
                for back in tl.static_range(1, WIDTH):
                    total += weight[back] * window[back - 1]
            for back in tl.static_range(WIDTH - 2):
                moved = moved + (window[back],)
            window = moved
            if SILU:
                total *= sigmoid(total)
            tl.store(place, total.to(y_ptr.dtype.element_ty), mask=channel_mask & (t < seqlen))
            place += d


# Program: one (batch, block of channels). The state's rows move one up, x becomes the last; a thread keeps to its own channels.
@triton.jit
def conv_update(state_ptr, x_ptr, weight_ptr, bias_ptr, y_ptr, d, stride_state_batch, stride_state_t, stride_state_d, stride_x_batch,
                stride_x_d, stride_weight_d, stride_weight_w, stride_bias, WIDTH: tl.constexpr, SILU: tl.constexpr,
                HAS_BIAS: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    channel = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    channel_mask = channel < d
    state = state_ptr + batch * stride_state_batch + channel * stride_state_d
    x = tl.load(x_ptr + batch * stride_x_batch + channel * stride_x_d, mask=channel_mask, other=0.0)
    total = x.to(tl.float32) * tap(weight_ptr, channel, channel_mask, 0, stride_weight_d, stride_weight_w, WIDTH)
    for row in range(WIDTH - 1):
        value = tl.load(state + row * stride_state_t, mask=channel_mask, other=0.0)
        total += value.to(tl.float32) * tap(
            weight_ptr, channel, channel_mask, WIDTH - 1 - row, stride_weight_d, stride_weight_w, WIDTH
        )
        tl.store(state + (row - 1) * stride_state_t, value, mask=channel_mask & (row > 0))
    tl.store(state + (WIDTH - 2) * stride_state_t, x.to(state_ptr.dtype.element_ty), mask=channel_mask)
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel * stride_bias, mask=channel_mask, other=0.0).to(tl.float32)
    if SILU:
        total *= tl.sigmoid(total)
    tl.store(y_ptr + batch * d + channel, total.to(y_ptr.dtype.element_ty), mask=channel_mask)
