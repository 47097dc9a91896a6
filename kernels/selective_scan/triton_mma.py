"""Products on the tensor cores in registers: what the scan does with them needs the fragments that the PTX manual draws.

Every tensor has one element per thread, as in triton_lanes. Of a warp's lanes, lane 4 g + q holds in the left operand (16 x 8)
rows g and g + 8, columns q and q + 4; in the right one (8 x 8) rows q and q + 4 of column g; in the product (16 x 8)
columns 2 q and 2 q + 1 of rows g and g + 8. tf32 drops the 13 low bits of an fp32.
"""

# The bodies are Triton's language: tuples grow, and constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import INTERPRETED

TF32_CORRECTION = tl.constexpr(1.0 + 0.7213 * 2.0**-11)
"""What a truncated fp32 is to be multiplied by to be right on average, over mantissas that are spread evenly in log scale."""


@triton.jit
def bits(x):
    """The bits of an fp32."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def dropped(x):
    """The bits of what tf32 drops of an fp32, exact: x less the value that a product takes x for."""
    return bits(x - (bits(x) & -8192).to(tl.float32, bitcast=True))


if INTERPRETED:

    @triton.jit
    def multiply_add(a, b, d):
        """One m16n8k8 tf32 product per warp: d + a b, from the operands' bits."""
        thread = tl.arange(0, d[0].shape[0])
        row = thread & -4
        column = (thread & -32) + 8 * (thread & 3)
        out = ()
        for i in tl.static_range(4):
            total = d[i]
            for k in tl.static_range(8):
                left = tl.gather(a[i // 2 + 2 * (k // 4)], row + k % 4, axis=0) & -8192
                right = tl.gather(b[k // 4], column + 4 * (i % 2) + k % 4, axis=0) & -8192
                total = total + left.to(tl.float32, bitcast=True) * right.to(tl.float32, bitcast=True)
            out = out + (total,)
        return out

    @triton.jit
    def lane_of(x, lane):
        """x of lane `lane` of the same warp."""
        return tl.gather(x, (tl.arange(0, x.shape[0]) & -32) + lane, axis=0)

    @triton.jit
    def spread(half, how):
        """The low half of `half` as the high half of a word (`how` 0x1044), or zero (0x4444)."""
        return tl.where(how == 0x1044, half << 16, 0)

else:

    @triton.jit
    def multiply_add(a, b, d):
        """One m16n8k8 tf32 product per warp: d + a b, from the operands' bits."""
        return tl.inline_asm_elementwise(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
            "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
            [a[0], a[1], a[2], a[3], b[0], b[1], d[0], d[1], d[2], d[3]],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def lane_of(x, lane):
        """x of lane `lane` of the same warp."""
        return tl.inline_asm_elementwise(
            "shfl.sync.idx.b32 $0, $1, $2, 0x1f, 0xffffffff;",
            "=f,f,r",
            [x, lane],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def spread(half, how):
        """The low half of `half` as the high half of a word (`how` 0x1044), or zero (0x4444)."""
        return tl.inline_asm_elementwise(
            "{ .reg .b32 none; mov.b32 none, 0; prmt.b32 $0, $1, none, $2; }",
            "=r,r,r",
            [half, how],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
