# mypy: ignore-errors
"""RMS norm with the residual add fused, forward and backward, in Triton.

Both work on tiles of whole rows: BLOCK_R rows of BLOCK_D >= d columns, masked in both directions; sums are fp32.
"""

import triton
import triton.language as tl


# Program (tile, member): BLOCK_R of a member's `rows` rows; each member has a row of the weights.
# stream = x + residual, kept in fp32; y = stream * rstd * weight.
@triton.jit
def norm_forward(x_ptr, weight_ptr, residual_ptr, y_ptr, stream_ptr, rstd_ptr, rows, d, eps, stride_x_row, stride_x_d,
                 stride_weight_member, stride_weight, stride_residual_row, stride_residual_d,
                 HAS_RESIDUAL: tl.constexpr, WRITE_STREAM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    own_row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = member * rows + own_row
    column = tl.arange(0, BLOCK_D)
    inside = (own_row[:, None] < rows) & (column[None, :] < d)
    stream = tl.load(x_ptr + row[:, None] * stride_x_row + column[None, :] * stride_x_d, mask=inside, other=0.0).to(
        tl.float32
    )
    if HAS_RESIDUAL:
        source = residual_ptr + row[:, None] * stride_residual_row + column[None, :] * stride_residual_d
        stream += tl.load(source, mask=inside, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(stream * stream, axis=1) / d + eps)
    weight_ptr += member * stride_weight_member
    weight = tl.load(weight_ptr + column * stride_weight, mask=column < d, other=0.0).to(tl.float32)
    y = stream * rstd[:, None] * weight[None, :]
    place = row[:, None] * d + column[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=inside)
    if WRITE_STREAM:
        tl.store(stream_ptr + place, stream, mask=inside)
    tl.store(rstd_ptr + row, rstd, mask=own_row < rows)


# Program (program, member): `tiles` consecutive tiles of BLOCK_R of a member's `rows` rows; its share of dweight goes to
# partial[program, member].
# With n = stream * rstd and g = dy * weight: dstream = rstd * (g - n * mean(g * n)) + the gradient that reaches the stream itself.
@triton.jit
def norm_backward(dy_ptr, dstream_ptr, stream_ptr, weight_ptr, rstd_ptr, dx_ptr, dresidual_ptr, partial_ptr, rows, d, tiles,
                  stride_dy_row, stride_dy_d, stride_dstream_row, stride_dstream_d, stride_stream_row, stride_stream_d,
                  stride_weight_member, stride_weight,
                  HAS_DY: tl.constexpr, HAS_DSTREAM: tl.constexpr, WRITE_DRESIDUAL: tl.constexpr, STAGES: tl.constexpr,
                  BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    member = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    weight_ptr += member * stride_weight_member
    weight = tl.load(weight_ptr + column * stride_weight, mask=column < d, other=0.0).to(tl.float32)
    dweight = tl.zeros((BLOCK_D,), tl.float32)
    for tile in tl.range(0, tiles, num_stages=STAGES):
        own_row = (program * tiles + tile) * BLOCK_R + tl.arange(0, BLOCK_R)
        row = member * rows + own_row
        inside = (own_row[:, None] < rows) & (column[None, :] < d)
        gradient = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        if HAS_DY:
            source = stream_ptr + row[:, None] * stride_stream_row + column[None, :] * stride_stream_d
            rstd = tl.load(rstd_ptr + row, mask=own_row < rows, other=0.0)[:, None]
            normed = tl.load(source, mask=inside, other=0.0).to(tl.float32) * rstd
            dy = tl.load(
                dy_ptr + row[:, None] * stride_dy_row + column[None, :] * stride_dy_d, mask=inside, other=0.0
            ).to(tl.float32)
            weighted = dy * weight[None, :]
            along = tl.sum(weighted * normed, axis=1)[:, None] / d
            gradient = rstd * (weighted - normed * along)
            dweight += tl.sum(dy * normed, axis=0)
        if HAS_DSTREAM:
            source = dstream_ptr + row[:, None] * stride_dstream_row + column[None, :] * stride_dstream_d
            gradient += tl.load(source, mask=inside, other=0.0).to(tl.float32)
        place = row[:, None] * d + column[None, :]
        tl.store(dx_ptr + place, gradient.to(dx_ptr.dtype.element_ty), mask=inside)
        if WRITE_DRESIDUAL:
            tl.store(dresidual_ptr + place, gradient, mask=inside)
    tl.store(partial_ptr + (program * tl.num_programs(1) + member) * d + column, dweight, mask=column < d)
