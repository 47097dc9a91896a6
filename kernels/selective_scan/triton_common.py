"""Device helpers shared by the Triton scan kernels, forward and backward.

On a GPU the transcendental functions are single approximate instructions (relative error below 2**-22, subnormals flushed to zero);
Triton's interpreter has no inline assembly, so there they are the exact functions. Everything computes in fp32.

Lane layout of the kernels that use `lane_grid`, `take_lane` and their relatives: two-dimensional tensors of 32 lanes by warps, in the
order `LANE_AXIS` says, so that a gather along the lanes is one shuffle. Where all dimensions of a pointer are equally
contiguous Triton must choose which one the lanes run along: up to 3.6 it takes the first, from 3.7 on the last. The other
choice sends every value through shared memory, with barriers.
"""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_TRITON_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
LANE_AXIS = tl.constexpr(0 if _TRITON_VERSION < (3, 7) else 1)
"""Which dimension of a (lanes, warps) or (warps, lanes) tensor the 32 lanes are."""

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

if INTERPRETED:

    @triton.jit
    def ex2(x):
        """2**x."""
        return tl.exp2(x)

    @triton.jit
    def lg2(x):
        """log2(x)."""
        return tl.log2(x)

    @triton.jit
    def rcp(x):
        """1 / x."""
        return 1.0 / x

    @triton.jit
    def prefetch_l1(pointers):
        """Ask for the sectors at `pointers` in L1; nothing to do here."""

    @triton.jit
    def prefetch_l2(pointers):
        """Ask for the sectors at `pointers` in L2; nothing to do here."""

else:

    @triton.jit
    def ex2(x):
        """2**x, one instruction."""
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )

    @triton.jit
    def lg2(x):
        """log2(x), one instruction."""
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )

    @triton.jit
    def rcp(x):
        """1 / x, one instruction."""
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )

    # A prefetch has no destination register, so ptxas cannot sink it to where a value is used, as it does with early loads.
    # Addresses must be valid: out-of-range pointers have to be clamped by the caller.

    @triton.jit
    def prefetch_l1(pointers):
        """Ask for the sectors at `pointers` in L1."""
        tl.inline_asm_elementwise(
            "prefetch.global.L1 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [pointers.to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def prefetch_l2(pointers):
        """Ask for the sectors at `pointers` in L2."""
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [pointers.to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to full fp32 precision, also where it is tiny.

    With e = exp(-|x|) and s = e / (2 + e): max(x, 0) + log1p(e), and log1p(e) = 2 atanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...) with
    s <= 1/3. The coefficients are the least-squares fit of degree 4 in s^2, relative error below 1e-8. It costs the same two
    special-function instructions as log(1 + exp(x)), which loses dt below 1e-3, and needs no branch.
    """
    e = ex2(tl.abs(x) * (-LOG2E))
    s = e * rcp(2.0 + e)
    q = s * s
    series = 1.0 + q * (0.33333158 + q * (0.20012427 + q * (0.13980709 + q * 0.14087329)))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def softplus_powers(x):
    """`softplus` with a single special-function instruction: log1p(e) / e as a polynomial of degree 8, relative error below 1.1e-7."""
    e = ex2(tl.abs(x) * (-LOG2E))
    p = 0.07920397818088531 + e * (-0.030065450817346573 + e * 0.005364738870412111)
    p = 0.1915363371372223 + e * (-0.13753755390644073 + e * p)
    p = 0.333213210105896 + e * (-0.24857157468795776 + e * p)
    p = 1.0 + e * (-0.49999648332595825 + e * p)
    return tl.maximum(x, 0.0) + e * p


@triton.jit
def softplus_gradient(x):
    """The derivative of softplus: the logistic sigmoid."""
    return sigmoid(x)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); 0 and 1 at the infinities."""
    return rcp(1.0 + ex2(x * (-LOG2E)))


@triton.jit
def silu(x):
    """x * sigmoid(x)."""
    return x * sigmoid(x)


@triton.jit
def low_float(pair):
    """The fp32 in the low half of an int64; free in registers."""
    return pair.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def high_float(pair):
    """The fp32 in the high half of an int64; free in registers."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def load_channels(pointers, mask, MASKED: tl.constexpr, CHANNELS: tl.constexpr):
    """Load CHANNELS (1 or 2) adjacent channels at (lanes, warps) pointers: a tuple of fp32 tensors, zeros where masked."""
    if CHANNELS == 1:
        if MASKED:
            values = (tl.load(pointers, mask=mask, other=0.0).to(tl.float32),)
        else:
            values = (tl.load(pointers).to(tl.float32),)
    else:
        both = pointers[:, :, None] + tl.arange(0, 2)[None, None, :]
        if MASKED:
            first, second = tl.split(tl.load(both, mask=mask[:, :, None], other=0.0))
        else:
            first, second = tl.split(tl.load(both))
        values = (first.to(tl.float32), second.to(tl.float32))
    return values


@triton.jit
def store_channels(pointers, values, mask, MASKED: tl.constexpr, CHANNELS: tl.constexpr):
    """Store a tuple of CHANNELS (1 or 2) tensors to adjacent channels, converted to the pointers' type."""
    if CHANNELS == 1:
        out = values[0].to(pointers.dtype.element_ty)
        if MASKED:
            tl.store(pointers, out, mask=mask)
        else:
            tl.store(pointers, out)
    else:
        both = pointers[:, :, None] + tl.arange(0, 2)[None, None, :]
        out = tl.join(values[0].to(pointers.dtype.element_ty), values[1].to(pointers.dtype.element_ty))
        if MASKED:
            tl.store(both, out, mask=mask[:, :, None])
        else:
            tl.store(both, out)


@triton.jit
def load_floats(pointers, COUNT: tl.constexpr):
    """Load COUNT (1, 2 or a multiple of 4) adjacent fp32 at (lanes, warps) pointers that are aligned to that: a tuple of tensors.

    Four at a time are one 128-bit load: as two int64 whose halves are floats, split along a last dimension of two.
    """
    out = ()
    if COUNT == 1:
        out = (tl.load(pointers),)
    elif COUNT == 2:
        pair = tl.load(pointers.to(tl.pointer_type(tl.int64)))
        out = (low_float(pair), high_float(pair))
    else:
        wide = pointers.to(tl.pointer_type(tl.int64))
        for quad in tl.static_range(COUNT // 4):
            first, second = tl.split(tl.load(wide[:, :, None] + 2 * quad + tl.arange(0, 2)[None, None, :]))
            out = out + (low_float(first), high_float(first), low_float(second), high_float(second))
    return out


@triton.jit
def lane_grid(WARPS: tl.constexpr):
    """Return (lane, warp, zero): the indices of every thread and an fp32 zero, all of the shape that LANE_AXIS says."""
    if LANE_AXIS == 0:
        zero = tl.zeros((32, WARPS), tl.float32)
        lane = tl.arange(0, 32)[:, None] + zero.to(tl.int32)
        warp = tl.arange(0, WARPS)[None, :] + zero.to(tl.int32)
    else:
        zero = tl.zeros((WARPS, 32), tl.float32)
        lane = tl.arange(0, 32)[None, :] + zero.to(tl.int32)
        warp = tl.arange(0, WARPS)[:, None] + zero.to(tl.int32)
    return lane, warp, zero


@triton.jit
def take_lane(x, index):
    """The value of x in lane `index` of the same warp: one shuffle."""
    return tl.gather(x, index, axis=LANE_AXIS)


@triton.jit
def exchange_add(first, second, lane, DISTANCE: tl.constexpr):
    """Lanes with bit DISTANCE set keep `second` and send `first`; the others the reverse. Returns kept + received.

    Summing 2**k values over 2**k lanes by repeated halving takes 2**k - 1 shuffles instead of k * 2**k.
    """
    upper = (lane & DISTANCE) != 0
    keep = tl.where(upper, second, first)
    send = tl.where(upper, first, second)
    return keep + take_lane(send, lane ^ DISTANCE)


@triton.jit
def kept_place(channel, D_INNER: tl.constexpr, HALVES: tl.constexpr):
    """Where in a state's row a channel is kept: HALVES as in triton_checkpoints."""
    place = channel
    if HALVES:
        place = (channel // 64 % 2) * (D_INNER // 2) + channel // 128 * 64 + channel % 64
    return place
