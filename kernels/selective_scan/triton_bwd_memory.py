"""Shared memory of the backward scan beyond the 48 KiB that a kernel may declare, and what else it does there.

Tensors, places and the interpreter's memory as in triton_shared.
"""

# The bodies are Triton's language: constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import INTERPRETED
from kernels.selective_scan.triton_lanes import load_scratch, store_quad
from kernels.selective_scan.triton_shared import commit_copies, copy_async

TILE = tl.constexpr(32)

if INTERPRETED:

    @triton.jit
    def claim_dynamic(pointer, thread, never, WORDS: tl.constexpr):
        """Memory that the threads of a program share: here the global memory at `pointer`."""
        return pointer

    @triton.jit
    def put_pair_where(memory, place, first, second, mask):
        """Store two adjacent fp32 at an even place, in the threads of `mask`."""
        tl.store(memory + place, first, mask=mask)
        tl.store(memory + place + 1, second, mask=mask)

    @triton.jit
    def await_all(thread):
        """Wait for every copy: here they are made at once."""

    @triton.jit
    def get_float(memory, place):
        """Load an fp32."""
        return tl.load(memory + place)
else:

    @triton.jit
    def claim_dynamic(pointer, thread, never, WORDS: tl.constexpr):
        """The address of WORDS x 8 bytes of shared memory that Triton sizes at the launch. Call once in a kernel.

        Triton gives a kernel what its own operations need: a gather of WORDS values, which `never` keeps from being run.
        """
        if never:
            wide = pointer.to(tl.pointer_type(tl.int64))
            values = tl.load(wide + tl.arange(0, WORDS))
            tl.store(wide + thread, tl.gather(values, thread, axis=0))
        return tl.inline_asm_elementwise(
            "mov.u32 $0, global_smem;", "=r,r", [thread], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def put_pair_where(memory, place, first, second, mask):
        """Store two adjacent fp32 at an even place, in the threads of `mask`."""
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $4, 0; @p st.shared.v2.f32 [$1], {$2, $3}; mov.b32 $0, 0; }",
            "=r,r,f,f,r",
            [memory + place * 4, first, second, mask.to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def await_all(thread):
        """Wait for every copy of this thread; a barrier must follow for those of others."""
        tl.inline_asm_elementwise(
            "cp.async.wait_group 0; mov.b32 $0, 0;", "=r,r", [thread], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def get_float(memory, place):
        """Load an fp32."""
        return tl.inline_asm_elementwise(
            "ld.shared.f32 $0, [$1];", "=f,r", [memory + place * 4], dtype=tl.float32, is_pure=False, pack=1
        )


@triton.jit
def copy_plane(
    memory,
    place,
    source,
    row_stride,
    thread,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SWIZZLED: tl.constexpr,
    THREADS: tl.constexpr,
):
    """ROWS rows of COLUMNS elements, 16 bytes a copy. Swizzled: rows 8 apart lie 32 bytes apart in their bank order."""
    EACH: tl.constexpr = 128 // source.dtype.element_ty.primitive_bitwidth
    CHUNKS: tl.constexpr = COLUMNS // EACH
    TOTAL: tl.constexpr = ROWS * CHUNKS
    for i in tl.static_range((TOTAL + THREADS - 1) // THREADS):
        index = thread + i * THREADS
        row = index // CHUNKS
        chunk = index % CHUNKS
        at = chunk
        if SWIZZLED:
            at = (chunk ^ (2 * (row >> 3))) % CHUNKS
        copy_async(
            memory, place + (row * CHUNKS + at) * 16, source + row * row_stride + chunk * EACH, 16, index < TOTAL
        )


@triton.jit
def copy_tile(
    memory,
    wide,
    slot,
    tile,
    sources,
    row_x,
    row_dt,
    row_z,
    row_dy,
    thread,
    HAS_Z: tl.constexpr,
    D_INNER: tl.constexpr,
    D_STATE: tl.constexpr,
    SPAN: tl.constexpr,
    AT_BC: tl.constexpr,
    AT_H: tl.constexpr,
    AT_ROWS: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Begin to copy what a tile reads, into one of two slots: B and C, the state that enters, and rows of x, dt, z and dy."""
    PLANE: tl.constexpr = TILE * SPAN * 2
    copy_plane(
        memory,
        AT_BC + slot * (D_STATE * 2 * TILE * 4),
        sources[0] + tile * (2 * D_STATE * TILE),
        2 * TILE,
        thread,
        D_STATE,
        2 * TILE,
        False,
        THREADS,
    )
    copy_plane(
        memory,
        AT_H + slot * (D_STATE * SPAN * 4),
        sources[1] + tile * (D_STATE * D_INNER),
        D_INNER,
        thread,
        D_STATE,
        SPAN,
        False,
        THREADS,
    )
    at = AT_ROWS + slot * (4 * PLANE)
    t0 = tile * TILE
    copy_plane(wide, at, sources[2] + t0 * row_x, row_x, thread, TILE, SPAN, True, THREADS)
    copy_plane(wide, at + PLANE, sources[3] + t0 * row_dt, row_dt, thread, TILE, SPAN, True, THREADS)
    if HAS_Z:
        copy_plane(wide, at + 2 * PLANE, sources[4] + t0 * row_z, row_z, thread, TILE, SPAN, True, THREADS)
    copy_plane(wide, at + 3 * PLANE, sources[5] + t0 * row_dy, row_dy, thread, TILE, SPAN, True, THREADS)
    commit_copies(thread)


@triton.jit
def add_sums(
    scratch,
    part,
    row,
    thread,
    first_state,
    BLOCK: tl.constexpr,
    COPIES: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Add what COPIES half warps left of dB and dC for BLOCK states, in their order, and store it, a state `row` fp32 after the other."""
    QUADS: tl.constexpr = 2 * BLOCK * TILE // 4
    for i in tl.static_range((QUADS + THREADS - 1) // THREADS):
        quad = thread + i * THREADS
        source = tl.minimum(quad, QUADS - 1) if QUADS % THREADS != 0 else quad
        total = load_scratch(scratch, source * 4)
        for w in tl.static_range(1, COPIES):
            more = load_scratch(scratch, w * (2 * BLOCK * TILE) + source * 4)
            total = (total[0] + more[0], total[1] + more[1], total[2] + more[2], total[3] + more[3])
        kind = source // (BLOCK * (TILE // 4))
        state = first_state + source // (TILE // 4) % BLOCK
        store_quad(part + state * row + kind * TILE + source % (TILE // 4) * 4, total, quad < QUADS)
