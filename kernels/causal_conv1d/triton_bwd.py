# mypy: ignore-errors
"""Backward of the causal depthwise convolution for usual widths: one pass that reads x and dy once, without atomics.

A program owns WALKS x ROWS positions of BLOCK_D channels. Its walks, a warp each, go backwards side by side, each through ROWS
positions, starting width - 1 positions later, where windows that reach into its own positions end. A walk keeps the last `width`
values of x and the unfinished sums of dx in registers. Its share of dweight and dbias goes to partial[batch, chunk, walk, plane, d]:
a plane for each column of weight, then one for the bias.
"""

import triton
import triton.language as tl

from kernels.causal_conv1d.triton_fwd import resets_at, row_at, within
from kernels.selective_scan.triton_common import sigmoid


# The value of a row where it lies before position 0: from the initial state.
@triton.jit
def before(value, initial_ptr, at, offset_initial, channel_mask, stride_initial_t, WIDTH: tl.constexpr):
    source = initial_ptr + (at + WIDTH - 1).to(tl.int64) * stride_initial_t + offset_initial
    held = tl.load(source, mask=channel_mask & (at < 0) & (at >= 1 - WIDTH), other=0.0)
    return value.to(tl.float32) + held.to(tl.float32)


# Program: one (batch, chunk, block of channels), channels fastest. Rows of its tiles are its walks.
@triton.jit
def conv_backward(x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, dy_ptr, dfinal_ptr, dx_ptr, dinitial_ptr, partial_ptr, seqlen, d,
                  chunks, stride_x_batch, stride_x_t, stride_x_d, stride_weight_d, stride_weight_w, stride_bias,
                  stride_initial_batch, stride_initial_t, stride_initial_d, stride_reset_batch, stride_reset_t, stride_dy_batch,
                  stride_dy_t, stride_dy_d, stride_dfinal_batch, stride_dfinal_t, stride_dfinal_d,
                  WIDTH: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr,
                  HAS_RESET: tl.constexpr, HAS_DY: tl.constexpr, HAS_DFINAL: tl.constexpr, WALKS: tl.constexpr,
                  ROWS: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    blocks_d = tl.cdiv(d, BLOCK_D)
    program = tl.program_id(0)
    chunk = (program // blocks_d) % chunks
    batch = (program // blocks_d // chunks).to(tl.int64)
    channel = ((program % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)[None, :]
    channel_mask = channel < d
    x_ptr += batch * stride_x_batch
    initial_ptr += batch * stride_initial_batch
    reset_ptr += batch * stride_reset_batch
    dy_ptr += batch * stride_dy_batch + channel * stride_dy_d
    dfinal_ptr += batch * stride_dfinal_batch + channel * stride_dfinal_d
    offset_x = channel * stride_x_d
    offset_initial = channel * stride_initial_d
    first = (chunk * WALKS + tl.arange(0, WALKS)[:, None]) * ROWS
    end = first + ROWS
    top = end + WIDTH - 1
    count: tl.constexpr = ROWS + (WIDTH - 1) * (1 + HAS_INITIAL)  # of a walk's positions
    at_once: tl.constexpr = count <= STEPS  # then which positions are its own is known here
    zero = tl.zeros((WALKS, BLOCK_D), tl.float32)
    bias = tl.zeros((1, BLOCK_D), tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel * stride_bias, mask=channel_mask, other=0.0).to(tl.float32)
    weight = ()
    window = ()  # x at t, t - 1, ..., t - width + 1
    cut = ()  # whether each of these positions resets
    dwindow = ()  # the unfinished dx of each of these positions
    dweight = ()
    for back in tl.static_range(WIDTH):
        source = weight_ptr + channel * stride_weight_d + (WIDTH - 1 - back) * stride_weight_w
        weight = weight + (tl.load(source, mask=channel_mask, other=0.0).to(tl.float32),)
        value = row_at(x_ptr, initial_ptr, top - 1 - back, offset_x, offset_initial, channel_mask, seqlen, stride_x_t, stride_initial_t,
                     WIDTH, HAS_INITIAL)  # fmt: skip
        window = window + (value.to(tl.float32),)
        if HAS_RESET:
            cut = cut + (resets_at(reset_ptr, top - 1 - back, seqlen, stride_reset_t),)
        dwindow = dwindow + (zero,)
        dweight = dweight + (zero,)
    dbias = zero
    uncut = top == top  # no reset between t and the end of the sequence: x[t] may be part of the final state
    for base in range(0, count, STEPS):
        incoming = ()
        upstream = ()
        latest = top - 1 - base
        source_x = x_ptr + (latest - WIDTH).to(tl.int64) * stride_x_t + offset_x
        source_dy = dy_ptr + latest.to(tl.int64) * stride_dy_t
        place = dx_ptr + (batch * seqlen + latest) * d + channel
        for step in tl.static_range(STEPS):  # a block's loads come before its stores, which would hold them up
            t = latest - step
            value = tl.load(source_x, mask=channel_mask & within(t - WIDTH, seqlen), other=0.0)
            if HAS_INITIAL:
                value = before(value, initial_ptr, t - WIDTH, offset_initial, channel_mask, stride_initial_t, WIDTH)
            incoming = incoming + (value,)
            source_x -= stride_x_t
            if HAS_DY:
                given = channel_mask & (t < seqlen)
                if HAS_INITIAL or not at_once:
                    given = given & (t >= first)
                upstream = upstream + (tl.load(source_dy, mask=given, other=0.0),)
                source_dy -= stride_dy_t
        for step in tl.static_range(STEPS):
            t = latest - step
            if HAS_DY:
                total = bias
                alive = t == t
                for back in tl.static_range(WIDTH):
                    if HAS_RESET:
                        total += tl.where(alive, weight[back] * window[back], 0.0)
                        alive = alive & (cut[back] == 0)
                    else:
                        total += weight[back] * window[back]
                gradient = upstream[step].to(tl.float32)
                if SILU:
                    share = sigmoid(total)
                    gradient *= share + total * share * (1.0 - share)
                own = gradient
                if not at_once:
                    own = tl.where(t < end, gradient, 0.0)
                elif step < WIDTH - 1:
                    own = zero
                dbias += own
                alive = t == t
                summed = ()
                dtaps = ()
                for back in tl.static_range(WIDTH):
                    if HAS_RESET:
                        dtaps = dtaps + (dweight[back] + tl.where(alive, own * window[back], 0.0),)
                        summed = summed + (dwindow[back] + tl.where(alive, gradient * weight[back], 0.0),)
                        alive = alive & (cut[back] == 0)
                    else:
                        dtaps = dtaps + (dweight[back] + own * window[back],)
                        summed = summed + (dwindow[back] + gradient * weight[back],)
                dweight = dtaps
                dwindow = summed
            dx = dwindow[0]
            if HAS_DFINAL:
                row = t - (seqlen - WIDTH + 1)
                kept = uncut & (row >= 0) & (t < seqlen) & (t >= 1 - WIDTH)
                dx += tl.load(dfinal_ptr + row.to(tl.int64) * stride_dfinal_t, mask=channel_mask & kept, other=0.0).to(
                    tl.float32
                )
                if HAS_RESET:
                    uncut = uncut & (cut[0] == 0)
            if not at_once or step >= WIDTH - 1:
                owned = channel_mask & (t < seqlen)
                if not at_once:
                    owned = owned & (t < end)
                if HAS_INITIAL or not at_once:
                    owned = owned & (t >= first)
                tl.store(place, dx.to(dx_ptr.dtype.element_ty), mask=owned)
            place -= d
            if HAS_INITIAL:
                tl.store(dinitial_ptr + (batch * (WIDTH - 1) + t + WIDTH - 1) * d + channel, dx.to(dinitial_ptr.dtype.element_ty),
                         mask=channel_mask & (first == 0) & (t < 0) & (t >= 1 - WIDTH))  # fmt: skip
            moved = ()
            dmoved = ()
            cmoved = ()
            for back in tl.static_range(WIDTH - 1):
                moved = moved + (window[back + 1],)
                dmoved = dmoved + (dwindow[back + 1],)
                if HAS_RESET:
                    cmoved = cmoved + (cut[back + 1],)
            window = moved + (incoming[step].to(tl.float32),)
            dwindow = dmoved + (zero,)
            if HAS_RESET:
                cut = cmoved + (resets_at(reset_ptr, t - WIDTH, seqlen, stride_reset_t),)
    walk = (batch * chunks + chunk) * WALKS + tl.arange(0, WALKS)[:, None]
    target = partial_ptr + walk * (WIDTH + HAS_BIAS) * d + channel
    for back in tl.static_range(WIDTH):
        tl.store(target + (WIDTH - 1 - back) * d, dweight[back], mask=channel_mask)
    if HAS_BIAS:
        tl.store(target + WIDTH * d, dbias, mask=channel_mask)
