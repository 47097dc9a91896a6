# mypy: ignore-errors
"""One step of the selective scan for decoding, in Triton; the state is advanced in place."""

import triton
import triton.language as tl


# log(1 + e) for e = exp(x), exact to rounding for small e too, where 1 + e would lose it (dt of 1e-4).
@triton.jit
def _softplus(x):
    e = tl.exp(tl.minimum(x, 20.0))
    u = 1.0 + e
    exact = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.where(x > 20.0, x, exact)


# Program (batch, channel block): BLOCK_D channels, all their states in tiles of BLOCK_N.
# B and C are (batch, groups, d_state); group_b, group_c channels share a group.
@triton.jit
def state_update(state_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, y_ptr, d_inner, d_state,
                 stride_state_batch, stride_state_d, stride_state_n, stride_x_batch, stride_x_d, stride_dt_batch, stride_dt_d,
                 stride_A_d, stride_A_n, stride_B_batch, stride_B_group, stride_B_n, stride_C_batch, stride_C_group, stride_C_n,
                 stride_D, stride_z_batch, stride_z_d, stride_bias, group_b, group_c,
                 HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
                 BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    channel = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    real = channel < d_inner
    x = tl.load(x_ptr + batch * stride_x_batch + channel * stride_x_d, mask=real, other=0.0).to(tl.float32)
    dt = tl.load(dt_ptr + batch * stride_dt_batch + channel * stride_dt_d, mask=real, other=0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias_ptr + channel * stride_bias, mask=real, other=0.0).to(tl.float32)
    if SOFTPLUS:
        dt = _softplus(dt)
    scaled = dt * x
    y = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, d_state, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = real[:, None] & (n[None, :] < d_state)
        A = tl.load(A_ptr + channel[:, None] * stride_A_d + n[None, :] * stride_A_n, mask=inside, other=0.0).to(
            tl.float32
        )
        of_b = B_ptr + batch * stride_B_batch + (channel // group_b)[:, None] * stride_B_group + n[None, :] * stride_B_n
        of_c = C_ptr + batch * stride_C_batch + (channel // group_c)[:, None] * stride_C_group + n[None, :] * stride_C_n
        B = tl.load(of_b, mask=inside, other=0.0).to(tl.float32)
        C = tl.load(of_c, mask=inside, other=0.0).to(tl.float32)
        place = state_ptr + batch * stride_state_batch + channel[:, None] * stride_state_d + n[None, :] * stride_state_n
        h = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        h = tl.exp(dt[:, None] * A) * h + scaled[:, None] * B
        tl.store(place, h.to(state_ptr.dtype.element_ty), mask=inside)
        y += tl.sum(h * C, axis=1)
    if HAS_D:
        y += tl.load(D_ptr + channel * stride_D, mask=real, other=0.0).to(tl.float32) * x
    if HAS_Z:
        z = tl.load(z_ptr + batch * stride_z_batch + channel * stride_z_d, mask=real, other=0.0).to(tl.float32)
        y *= z * tl.sigmoid(z)
    tl.store(y_ptr + batch * d_inner + channel, y.to(y_ptr.dtype.element_ty), mask=real)
