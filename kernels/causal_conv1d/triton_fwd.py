# mypy: ignore-errors
"""The causal depthwise convolution, channel-last, in Triton: the forward pass and the decode step.

A tap that looks `back` positions back has weight[:, width - 1 - back]. A window is walked from its own position backwards;
it stays `alive` until it has taken in a position that resets.
"""

import triton
import triton.language as tl


# Values of x (from the initial state before position 0) that window positions `at` hold; `alive` is false where a reset cut them off.
@triton.jit
def window_values(x_ptr, initial_ptr, at, alive, d_offset_x, d_offset_initial, channel_mask, stride_x_t, stride_initial_t,
                  WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr):  # fmt: skip
    inside = ((at >= 0) & alive)[:, None] & channel_mask[None, :]
    values = tl.load(x_ptr + at[:, None] * stride_x_t + d_offset_x[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_INITIAL:
        before = ((at < 0) & (at >= 1 - WIDTH) & alive)[:, None] & channel_mask[None, :]
        source = initial_ptr + (at + WIDTH - 1)[:, None] * stride_initial_t + d_offset_initial[None, :]
        values += tl.load(source, mask=before, other=0.0).to(tl.float32)
    return values


@triton.jit
def tap(weight_ptr, channel, channel_mask, back, stride_weight_d, stride_weight_w, WIDTH: tl.constexpr):
    source = weight_ptr + channel * stride_weight_d + (WIDTH - 1 - back) * stride_weight_w
    return tl.load(source, mask=channel_mask, other=0.0).to(tl.float32)


@triton.jit
def add_tap(total, alive, back, t, x_ptr, weight_ptr, initial_ptr, reset_ptr, channel, channel_mask, seqlen, stride_x_t, stride_x_d,
            stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d, stride_reset_t,
            WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr):  # fmt: skip
    at = t - back
    values = window_values(x_ptr, initial_ptr, at, alive, channel * stride_x_d, channel * stride_initial_d, channel_mask, stride_x_t,
                           stride_initial_t, WIDTH, HAS_INITIAL)  # fmt: skip
    total += tap(weight_ptr, channel, channel_mask, back, stride_weight_d, stride_weight_w, WIDTH)[None, :] * values
    if HAS_RESET:
        alive = alive & (tl.load(reset_ptr + at * stride_reset_t, mask=(at >= 0) & (at < seqlen), other=0) == 0)
    return total, alive


# Weighted sums of the windows ending at positions t, before bias and activation; 0 where t lies outside the sequence.
@triton.jit
def weighted_windows(t, x_ptr, weight_ptr, initial_ptr, reset_ptr, channel, channel_mask, seqlen, stride_x_t, stride_x_d,
                     stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d, stride_reset_t, WIDTH: tl.constexpr,
                     HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, UNROLL: tl.constexpr, BLOCK_T: tl.constexpr,
                     BLOCK_D: tl.constexpr):  # fmt: skip
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    alive = (t >= 0) & (t < seqlen)
    if UNROLL:
        for back in tl.static_range(WIDTH):
            total, alive = add_tap(total, alive, back, t, x_ptr, weight_ptr, initial_ptr, reset_ptr, channel, channel_mask, seqlen,
                                   stride_x_t, stride_x_d, stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d,
                                   stride_reset_t, WIDTH, HAS_INITIAL, HAS_RESET)  # fmt: skip
    else:
        for back in range(WIDTH):
            total, alive = add_tap(total, alive, back, t, x_ptr, weight_ptr, initial_ptr, reset_ptr, channel, channel_mask, seqlen,
                                   stride_x_t, stride_x_d, stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d,
                                   stride_reset_t, WIDTH, HAS_INITIAL, HAS_RESET)  # fmt: skip
    return total


# Program: one (batch, block of time, block of channels), channels fastest. The last block of time also writes the final state.
@triton.jit
def conv_forward(x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, y_ptr, final_ptr, seqlen, d, blocks_t, stride_x_batch, stride_x_t,
                 stride_x_d, stride_weight_d, stride_weight_w, stride_bias, stride_initial_batch, stride_initial_t, stride_initial_d,
                 stride_reset_batch, stride_reset_t, WIDTH: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr,
                 HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, UNROLL: tl.constexpr, BLOCK_T: tl.constexpr,
                 BLOCK_D: tl.constexpr):  # fmt: skip
    blocks_d = tl.cdiv(d, BLOCK_D)
    program = tl.program_id(0)
    block_t = (program // blocks_d) % blocks_t
    batch = (program // blocks_d // blocks_t).to(tl.int64)
    channel = ((program % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    channel_mask = channel < d
    t = (block_t * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    x_ptr += batch * stride_x_batch
    initial_ptr += batch * stride_initial_batch
    reset_ptr += batch * stride_reset_batch
    total = weighted_windows(t, x_ptr, weight_ptr, initial_ptr, reset_ptr, channel, channel_mask, seqlen, stride_x_t, stride_x_d,
                             stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d, stride_reset_t, WIDTH,
                             HAS_INITIAL, HAS_RESET, UNROLL, BLOCK_T, BLOCK_D)  # fmt: skip
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel * stride_bias, mask=channel_mask, other=0.0).to(tl.float32)[None, :]
    if SILU:
        total *= tl.sigmoid(total)
    place = y_ptr + (batch * seqlen + t[:, None]) * d + channel[None, :]
    tl.store(place, total.to(y_ptr.dtype.element_ty), mask=(t < seqlen)[:, None] & channel_mask[None, :])
    if block_t == blocks_t - 1:
        alive = t == t
        for back in range(WIDTH - 1):
            # one row as a tile of BLOCK_T equal rows: only the first is stored
            at = tl.zeros((BLOCK_T,), tl.int64) + (seqlen - 1 - back)
            values = window_values(x_ptr, initial_ptr, at, alive, channel * stride_x_d, channel * stride_initial_d, channel_mask,
                                   stride_x_t, stride_initial_t, WIDTH, HAS_INITIAL)  # fmt: skip
            rows = final_ptr + (batch * (WIDTH - 1) + (WIDTH - 2 - back)) * d + channel[None, :] + 0 * t[:, None]
            first = (tl.arange(0, BLOCK_T) == 0)[:, None] & channel_mask[None, :]
            tl.store(rows, values.to(final_ptr.dtype.element_ty), mask=first)
            if HAS_RESET:
                alive = alive & (tl.load(reset_ptr + at * stride_reset_t, mask=at >= 0, other=0) == 0)


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
