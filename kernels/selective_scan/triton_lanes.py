"""Warp-level steps on thread-indexed tensors: lane shifts, a sum over lanes on the tensor cores, wide accesses to memory.

Every tensor here has exactly one element per thread of the program, so element i is thread i's in whatever layout the compiler
picks, and an inline instruction that works across a warp sees the lanes it expects. A tensor of another size would not do.
Triton's interpreter has no inline assembly: there the same functions gather, with the same results up to rounding.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import INTERPRETED, high_float, low_float, prefetch_l2

if INTERPRETED:

    @triton.jit
    def lane_up(x, distance):
        """x of the lane `distance` below, within the 16 lanes of a half warp; the lane's own where there is none."""
        thread = tl.arange(0, x.shape[0])
        return tl.gather(x, tl.where((thread & 15) >= distance, thread - distance, thread), axis=0)

    @triton.jit
    def lane_down(x, distance):
        """x of the lane `distance` above, within the 16 lanes of a half warp; the lane's own where there is none."""
        thread = tl.arange(0, x.shape[0])
        return tl.gather(x, tl.where((thread & 15) + distance < 16, thread + distance, thread), axis=0)

    @triton.jit
    def lane_flip(x, distance):
        """x of the lane whose number differs in the bits of `distance`."""
        return tl.gather(x, tl.arange(0, x.shape[0]) ^ distance, axis=0)

    @triton.jit
    def quad_sums(values, lane, EXACT: tl.constexpr):
        """Lane q of every four lanes gets values 4q to 4q + 3 of the 16, each summed over the four lanes."""
        sums = ()
        for i in tl.static_range(16):
            half = values[i] + lane_flip(values[i], 1)
            sums = sums + (half + lane_flip(half, 2),)
        mine = ()
        for i in tl.static_range(4):
            low = tl.where((lane & 1) == 0, sums[i], sums[4 + i])
            high = tl.where((lane & 1) == 0, sums[8 + i], sums[12 + i])
            mine = mine + (tl.where((lane & 2) == 0, low, high),)
        return mine

    @triton.jit
    def load_quad_constant(pointers):
        """Four adjacent fp32 at 16-byte aligned pointers that nothing writes while the kernel runs."""
        return (tl.load(pointers), tl.load(pointers + 1), tl.load(pointers + 2), tl.load(pointers + 3))

    @triton.jit
    def store_quad(pointers, values, mask):
        """Store four adjacent fp32 at 16-byte aligned pointers, where mask."""
        for i in tl.static_range(4):
            tl.store(pointers + i, values[i], mask=mask)

    @triton.jit
    def claim_scratch(pointer, thread):
        """Memory that the threads of a program share: here the global memory at `pointer`."""
        return pointer

    @triton.jit
    def store_scratch(scratch, offset, values, mask):
        """Store four adjacent fp32 at a multiple of four elements, where mask."""
        store_quad(scratch + offset, values, mask)

    @triton.jit
    def load_scratch(scratch, offset):
        """Four adjacent fp32 at a multiple of four elements."""
        return load_quad_constant(scratch + offset)

else:

    @triton.jit
    def lane_up(x, distance):
        """x of the lane `distance` below, within the 16 lanes of a half warp; the lane's own where there is none."""
        far = tl.full(x.shape, distance, tl.int32)
        return tl.inline_asm_elementwise(
            "shfl.sync.up.b32 $0, $1, $2, 0x1000, 0xffffffff;",
            "=f,f,r",
            [x, far],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def lane_down(x, distance):
        """x of the lane `distance` above, within the 16 lanes of a half warp; the lane's own where there is none."""
        far = tl.full(x.shape, distance, tl.int32)
        return tl.inline_asm_elementwise(
            "shfl.sync.down.b32 $0, $1, $2, 0x101f, 0xffffffff;",
            "=f,f,r",
            [x, far],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def lane_flip(x, distance):
        """x of the lane whose number differs in the bits of `distance`."""
        far = tl.full(x.shape, distance, tl.int32)
        return tl.inline_asm_elementwise(
            "shfl.sync.bfly.b32 $0, $1, $2, 0x1f, 0xffffffff;",
            "=f,f,r",
            [x, far],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def multiply_add(a, b, d):
        """One m16n8k8 tf32 product per warp, in the register fragments that the PTX manual draws: d + a b."""
        return tl.inline_asm_elementwise(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
            "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
            [a[0], a[1], a[2], a[3], b[0], b[1], d[0], d[1], d[2], d[3]],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def bits(x):
        """The bits of an fp32."""
        return x.to(tl.int32, bitcast=True)

    @triton.jit
    def quad_sums(values, lane, EXACT: tl.constexpr):
        """Lane q of every four lanes gets values 4q to 4q + 3 of the 16, each summed over the four lanes.

        The lanes of a group of four hold the k index of the left operand; the right operand has ones that send each of
        four values to a column of its own, and column 2q, 2q + 1 of the product is lane q's. tf32 drops 13 bits of a value:
        with EXACT they are summed by a second product, which leaves a relative error of 2**-21.
        """
        group = lane >> 2
        one = tl.full(lane.shape, 0x3F800000, tl.int32)
        none = tl.zeros(lane.shape, tl.int32)
        zero = tl.zeros(lane.shape, tl.float32)
        halves = ()
        for half in tl.static_range(2):
            total = (zero, zero, zero, zero)
            for late in tl.static_range(2):  # the caller has the later values of the first half first
                ones = (
                    tl.where((group & 3) == 2 * (1 - late), one, none),
                    tl.where((group & 3) == 2 * (1 - late) + 1, one, none),
                )
                # rows of the product: value 0 and 2 (columns even, odd), then 1 and 3
                v = (
                    bits(values[8 * half + 4 * (1 - late)]),
                    bits(values[8 * half + 4 * (1 - late) + 2]),
                    bits(values[8 * half + 4 * (1 - late) + 1]),
                    bits(values[8 * half + 4 * (1 - late) + 3]),
                )
                total = multiply_add(v, ones, total)
                if EXACT:
                    rest = ()
                    for i in tl.static_range(4):
                        rest = rest + (
                            bits(v[i].to(tl.float32, bitcast=True) - (v[i] & -8192).to(tl.float32, bitcast=True)),
                        )
                    total = multiply_add(rest, ones, total)
            halves = halves + (total,)
        upper = (lane & 2) != 0
        mine = ()
        for i in tl.static_range(4):
            mine = mine + (tl.where(upper, halves[1][i], halves[0][i]),)
        return mine

    @triton.jit
    def claim_scratch(pointer, thread):
        """Memory that the threads of a program share: the address of 32 KiB of static shared memory. Call once in a kernel."""
        return tl.inline_asm_elementwise(
            "{ .shared .align 16 .b8 scan_scratch[32768]; mov.u32 $0, scan_scratch; }",
            "=r,r",
            [thread],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def store_scratch(scratch, offset, values, mask):
        """Store four adjacent fp32 at a multiple of four elements, where mask."""
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $6, 0; @p st.shared.v4.f32 [$1], {$2, $3, $4, $5}; mov.b32 $0, 0; }",
            "=r,r,f,f,f,f,r",
            [scratch + offset * 4, values[0], values[1], values[2], values[3], mask.to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def load_scratch(scratch, offset):
        """Four adjacent fp32 at a multiple of four elements."""
        return tl.inline_asm_elementwise(
            "ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];",
            "=f,=f,=f,=f,r",
            [scratch + offset * 4],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def load_quad_constant(pointers):
        """Four adjacent fp32 at 16-byte aligned pointers that nothing writes while the kernel runs."""
        return tl.inline_asm_elementwise(
            "ld.global.nc.v4.f32 {$0, $1, $2, $3}, [$4];",
            "=f,=f,=f,=f,l",
            [pointers.to(tl.int64)],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )

    @triton.jit
    def store_quad(pointers, values, mask):
        """Store four adjacent fp32 at 16-byte aligned pointers, where mask."""
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $6, 0; @p st.global.v4.f32 [$1], {$2, $3, $4, $5}; mov.b32 $0, 0; }",
            "=r,l,f,f,f,f,r",
            [pointers.to(tl.int64), values[0], values[1], values[2], values[3], mask.to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


if INTERPRETED:

    @triton.jit
    def pack_halves(first, second, dtype: tl.constexpr):
        """Two fp32 rounded to a 16-bit type, the first in the low half of an int32."""
        low = first.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        return low | (second.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) << 16)

else:

    @triton.jit
    def pack_halves(first, second, dtype: tl.constexpr):
        """Two fp32 rounded to a 16-bit type, the first in the low half of an int32."""
        if dtype == tl.bfloat16:
            packed = tl.inline_asm_elementwise(
                "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [first, second], dtype=tl.int32, is_pure=True, pack=1
            )
        else:
            packed = tl.inline_asm_elementwise(
                "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", [first, second], dtype=tl.int32, is_pure=True, pack=1
            )
        return packed


@triton.jit
def unpack(word, dtype: tl.constexpr):
    """The two neighbours in an int32 (16-bit types) or int64 (fp32), as fp32."""
    if dtype == tl.float32:
        pair = (low_float(word), high_float(word))
    elif dtype == tl.bfloat16:
        pair = ((word << 16).to(tl.float32, bitcast=True), (word & -65536).to(tl.float32, bitcast=True))
    else:
        low = word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        pair = (low, (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32))
    return pair


@triton.jit
def load_row(pointer, offset, mask, channel_stride, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr):
    """Neighbouring channels as fp32, zeros where masked. `offset` counts elements, or pairs of elements with PAIRS."""
    out = ()
    if PAIRS:
        dtype: tl.constexpr = pointer.dtype.element_ty
        if dtype == tl.float32:
            wide = pointer.to(tl.pointer_type(tl.int64)) + offset
        else:
            wide = pointer.to(tl.pointer_type(tl.int32)) + offset
        if MASKED:
            out = unpack(tl.load(wide, mask=mask[0], other=0), dtype)
        else:
            out = unpack(tl.load(wide), dtype)
    else:
        for c in tl.static_range(CHANNELS):
            if MASKED:
                out = out + (tl.load(pointer + offset + c * channel_stride, mask=mask[c], other=0.0).to(tl.float32),)
            else:
                out = out + (tl.load(pointer + offset + c * channel_stride).to(tl.float32),)
    return out


@triton.jit
def store_row(pointer, offset, values, mask, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr):
    """Store neighbouring channels, rounded to the pointer's type. `offset` counts elements, or pairs of elements with PAIRS."""
    dtype: tl.constexpr = pointer.dtype.element_ty
    if PAIRS:
        if dtype == tl.float32:
            low = values[0].to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
            word = low | (values[1].to(tl.int32, bitcast=True).to(tl.int64) << 32)
            wide = pointer.to(tl.pointer_type(tl.int64)) + offset
        else:
            word = pack_halves(values[0], values[1], dtype)
            wide = pointer.to(tl.pointer_type(tl.int32)) + offset
        if MASKED:
            tl.store(wide, word, mask=mask[0])
        else:
            tl.store(wide, word)
    else:
        for c in tl.static_range(CHANNELS):
            if MASKED:
                tl.store(pointer + offset + c, values[c].to(dtype), mask=mask[c])
            else:
                tl.store(pointer + offset + c, values[c].to(dtype))


@triton.jit
def fetch(pointer, row_stride, thread, ROWS: tl.constexpr, COLUMNS: tl.constexpr, THREADS: tl.constexpr):
    """Prefetch ROWS rows of COLUMNS elements to L2; every address must be inside the tensor."""
    SECTOR: tl.constexpr = 256 // pointer.dtype.element_ty.primitive_bitwidth
    SECTORS: tl.constexpr = (COLUMNS + SECTOR - 1) // SECTOR
    for i in tl.static_range((ROWS * SECTORS + THREADS - 1) // THREADS):
        sector = tl.minimum(thread + i * THREADS, ROWS * SECTORS - 1)
        prefetch_l2(pointer + (sector // SECTORS) * row_stride + (sector % SECTORS) * SECTOR)


@triton.jit
def sum_pieces(values, piece, CHANNELS: tl.constexpr):
    """Sum each channel's value over the four pieces; with two channels, even pieces get the first's sum and odd the second's."""
    if CHANNELS == 2:
        odd = (piece & 1) != 0
        total = tl.where(odd, values[1], values[0]) + lane_flip(tl.where(odd, values[0], values[1]), 4)
    else:
        total = values[0] + lane_flip(values[0], 4)
    return total + lane_flip(total, 8)


@triton.jit
def load_own(pointer, mask, MASKED: tl.constexpr):
    """Load, masked only if need be."""
    if MASKED:
        value = tl.load(pointer, mask=mask, other=0.0)
    else:
        value = tl.load(pointer)
    return value


@triton.jit
def store_own(pointer, value, mask, MASKED: tl.constexpr):
    """Store, masked only if need be. Lanes that hold the same sum store the same bits."""
    if MASKED:
        tl.store(pointer, value, mask=mask)
    else:
        tl.store(pointer, value)
