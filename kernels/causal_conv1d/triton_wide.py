# mypy: ignore-errors
"""The causal depthwise convolution for widths too large to keep a window in registers: loops over the taps, on tiles.

The backward takes three passes: the gradient of each weighted window (fp32), then dx as its convolution with the reversed
filter, then partial sums of dweight per (tap, chunk of time). Slower than the narrow kernels by that gradient's bytes and by
re-reading.
"""

import triton
import triton.language as tl

from kernels.causal_conv1d.triton_fwd import tap


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


# Weighted sums of the windows ending at positions t, before bias and activation; 0 where t lies outside the sequence.
@triton.jit
def weighted_windows(t, x_ptr, weight_ptr, initial_ptr, reset_ptr, channel, channel_mask, seqlen, stride_x_t, stride_x_d,
                     stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d, stride_reset_t, WIDTH: tl.constexpr,
                     HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    alive = (t >= 0) & (t < seqlen)
    for back in range(WIDTH):
        at = t - back
        values = window_values(x_ptr, initial_ptr, at, alive, channel * stride_x_d, channel * stride_initial_d, channel_mask,
                               stride_x_t, stride_initial_t, WIDTH, HAS_INITIAL)  # fmt: skip
        total += tap(weight_ptr, channel, channel_mask, back, stride_weight_d, stride_weight_w, WIDTH)[None, :] * values
        if HAS_RESET:
            alive = alive & (tl.load(reset_ptr + at * stride_reset_t, mask=(at >= 0) & (at < seqlen), other=0) == 0)
    return total


# Program: one (batch, block of time, block of channels), channels fastest. The last block also writes the final state.
@triton.jit
def conv_forward_wide(x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, y_ptr, final_ptr, seqlen, d, blocks_t, stride_x_batch,
                      stride_x_t, stride_x_d, stride_weight_d, stride_weight_w, stride_bias, stride_initial_batch, stride_initial_t,
                      stride_initial_d, stride_reset_batch, stride_reset_t, WIDTH: tl.constexpr, SILU: tl.constexpr,
                      HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, BLOCK_T: tl.constexpr,
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
                             HAS_INITIAL, HAS_RESET, BLOCK_T, BLOCK_D)  # fmt: skip
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


# Program as conv_forward_wide's: gradient[t] = dy[t] * silu'(weighted window + bias).
@triton.jit
def window_gradient(x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, dy_ptr, gradient_ptr, seqlen, d, blocks_t, stride_x_batch,
                    stride_x_t, stride_x_d, stride_weight_d, stride_weight_w, stride_bias, stride_initial_batch, stride_initial_t,
                    stride_initial_d, stride_reset_batch, stride_reset_t, stride_dy_batch, stride_dy_t, stride_dy_d,
                    WIDTH: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr,
                    HAS_RESET: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    blocks_d = tl.cdiv(d, BLOCK_D)
    program = tl.program_id(0)
    batch = (program // blocks_d // blocks_t).to(tl.int64)
    channel = ((program % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    channel_mask = channel < d
    t = (((program // blocks_d) % blocks_t) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    inside = (t < seqlen)[:, None] & channel_mask[None, :]
    source = dy_ptr + batch * stride_dy_batch + t[:, None] * stride_dy_t + channel[None, :] * stride_dy_d
    gradient = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        total = weighted_windows(t, x_ptr + batch * stride_x_batch, weight_ptr, initial_ptr + batch * stride_initial_batch,
                                 reset_ptr + batch * stride_reset_batch, channel, channel_mask, seqlen, stride_x_t, stride_x_d,
                                 stride_weight_d, stride_weight_w, stride_initial_t, stride_initial_d, stride_reset_t, WIDTH,
                                 HAS_INITIAL, HAS_RESET, BLOCK_T, BLOCK_D)  # fmt: skip
        if HAS_BIAS:
            total += tl.load(bias_ptr + channel * stride_bias, mask=channel_mask, other=0.0).to(tl.float32)[None, :]
        sigmoid = tl.sigmoid(total)
        gradient *= sigmoid * (1.0 + total * (1.0 - sigmoid))
    tl.store(gradient_ptr + (batch * seqlen + t[:, None]) * d + channel[None, :], gradient, mask=inside)


# Program: one (batch, block of time, block of channels); time starts at 1 - width, where dinitial is, if there is an initial state.
@triton.jit
def input_gradient(weight_ptr, reset_ptr, gradient_ptr, dfinal_ptr, dx_ptr, dinitial_ptr, seqlen, d, blocks_t, stride_weight_d,
                   stride_weight_w, stride_reset_batch, stride_reset_t, stride_dfinal_batch, stride_dfinal_t, stride_dfinal_d,
                   WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, HAS_DFINAL: tl.constexpr,
                   BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    blocks_d = tl.cdiv(d, BLOCK_D)
    program = tl.program_id(0)
    batch = (program // blocks_d // blocks_t).to(tl.int64)
    channel = ((program % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    channel_mask = channel < d
    t = (((program // blocks_d) % blocks_t) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    if HAS_INITIAL:
        t += 1 - WIDTH
    reset_ptr += batch * stride_reset_batch
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    alive = t < seqlen
    for ahead in range(WIDTH):
        at = t + ahead
        if HAS_RESET:
            cut = tl.load(reset_ptr + at * stride_reset_t, mask=(ahead > 0) & (at >= 0) & (at < seqlen), other=0)
            alive = alive & (cut == 0)
        source = gradient_ptr + (batch * seqlen + at[:, None]) * d + channel[None, :]
        gradient = tl.load(source, mask=((at >= 0) & (at < seqlen) & alive)[:, None] & channel_mask[None, :], other=0.0)
        total += (
            tap(weight_ptr, channel, channel_mask, ahead, stride_weight_d, stride_weight_w, WIDTH)[None, :] * gradient
        )
    if HAS_DFINAL:
        row = t - (seqlen - WIDTH + 1)
        kept = (row >= 0) & alive
        source = (
            dfinal_ptr
            + batch * stride_dfinal_batch
            + row[:, None] * stride_dfinal_t
            + channel[None, :] * stride_dfinal_d
        )
        total += tl.load(source, mask=kept[:, None] & channel_mask[None, :], other=0.0).to(tl.float32)
    tl.store(dx_ptr + (batch * seqlen + t[:, None]) * d + channel[None, :], total.to(dx_ptr.dtype.element_ty),
             mask=((t >= 0) & (t < seqlen))[:, None] & channel_mask[None, :])  # fmt: skip
    if HAS_INITIAL:
        place = dinitial_ptr + (batch * (WIDTH - 1) + t[:, None] + WIDTH - 1) * d + channel[None, :]
        tl.store(place, total.to(dinitial_ptr.dtype.element_ty), mask=(t < 0)[:, None] & channel_mask[None, :])


# Program (batch x chunk, block of channels, plane): partial[batch x chunk, plane] = sum over the chunk of gradient[t] x[t - back] for
# each column of weight; the plane after the last column, if there is a bias, is the sum of the gradients.
@triton.jit
def weight_gradient(x_ptr, initial_ptr, reset_ptr, gradient_ptr, partial_ptr, seqlen, d, chunks, stride_x_batch, stride_x_t, stride_x_d,
                    stride_initial_batch, stride_initial_t, stride_initial_d, stride_reset_batch, stride_reset_t,
                    WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, BLOCK_T: tl.constexpr,
                    BLOCK_D: tl.constexpr):  # fmt: skip
    place = tl.program_id(0)
    plane = tl.program_id(2)
    back = WIDTH - 1 - plane
    chunk = place % chunks
    batch = (place // chunks).to(tl.int64)
    channel = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    channel_mask = channel < d
    t = (chunk * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    source = gradient_ptr + (batch * seqlen + t[:, None]) * d + channel[None, :]
    product = tl.load(source, mask=(t < seqlen)[:, None] & channel_mask[None, :], other=0.0)
    if plane < WIDTH:
        alive = t < seqlen
        if HAS_RESET:
            for nearer in range(back):
                at = t - nearer
                cut = tl.load(
                    reset_ptr + batch * stride_reset_batch + at * stride_reset_t,
                    mask=(at >= 0) & (at < seqlen),
                    other=0,
                )
                alive = alive & (cut == 0)
        product *= window_values(x_ptr + batch * stride_x_batch, initial_ptr + batch * stride_initial_batch, t - back, alive,
                                 channel * stride_x_d, channel * stride_initial_d, channel_mask, stride_x_t, stride_initial_t, WIDTH,
                                 HAS_INITIAL)  # fmt: skip
    target = partial_ptr + (place.to(tl.int64) * tl.num_programs(2) + plane) * d + channel
    tl.store(target, tl.sum(product, axis=0), mask=channel_mask)
