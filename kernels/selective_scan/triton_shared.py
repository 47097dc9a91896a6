"""Memory that the threads of a program share, and copies into it that nothing waits for.

Every tensor has one element per thread, as in triton_lanes. Places are in floats, of what was copied in bytes. Triton's interpreter
has no shared memory: there a program has its part of a buffer in global memory.
"""

# The bodies are Triton's language: constexpr parameters are not of the type they name.
# mypy: ignore-errors

import triton
import triton.language as tl

from kernels.selective_scan.triton_common import INTERPRETED

if INTERPRETED:

    @triton.jit
    def claim_memory(pointer, thread, BYTES: tl.constexpr):
        """Memory that the threads of a program share: here the global memory at `pointer`."""
        return pointer

    @triton.jit
    def from_byte(memory, place):
        """The memory from byte `place` on, a multiple of 16."""
        return memory + place // 4

    @triton.jit
    def put(memory, place, value):
        """Store an fp32."""
        tl.store(memory + place, value)

    @triton.jit
    def put_pair(memory, place, first, second):
        """Store two adjacent fp32 at an even place."""
        tl.store(memory + place, first)
        tl.store(memory + place + 1, second)

    @triton.jit
    def put_quad(memory, place, first, second, third, fourth):
        """Store four adjacent fp32 at a multiple of four."""
        tl.store(memory + place, first)
        tl.store(memory + place + 1, second)
        tl.store(memory + place + 2, third)
        tl.store(memory + place + 3, fourth)

    @triton.jit
    def get_pair(memory, place):
        """Load two adjacent fp32 from an even place."""
        return tl.load(memory + place), tl.load(memory + place + 1)

    @triton.jit
    def get_quad(memory, place):
        """Load four adjacent fp32 from a multiple of four."""
        at = memory + place
        return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)

    @triton.jit
    def copy_async(memory, place, pointer, BYTES: tl.constexpr, mask):
        """Copy BYTES (8 or 16), aligned to that, to byte `place`; zeros where masked."""
        source = pointer.to(tl.pointer_type(tl.int32))
        for i in tl.static_range(BYTES // 4):
            word = tl.load(source + i, mask=mask, other=0)
            tl.store(memory.to(tl.pointer_type(tl.int32)) + place // 4 + i, word)

    @triton.jit
    def commit_copies(thread):
        """End a group of copies; nothing to do here."""

    @triton.jit
    def await_copies(thread):
        """Wait for all of this thread's groups of copies but the last; nothing to do here."""

    @triton.jit
    def await_own_copies(thread, LEFT: tl.constexpr):
        """Wait for all of the warp's groups of copies but the last LEFT; nothing to do here."""

    @triton.jit
    def get_word(memory, place):
        """Load 32 bits from byte `place`, a multiple of four."""
        return tl.load(memory.to(tl.pointer_type(tl.int32)) + place // 4)

    @triton.jit
    def get_two_words(memory, place):
        """Load two words from byte `place`, a multiple of eight."""
        at = memory.to(tl.pointer_type(tl.int32)) + place // 4
        return tl.load(at), tl.load(at + 1)

    @triton.jit
    def get_half(memory, place):
        """Load 16 bits from byte `place`, as the low half of an int32."""
        return tl.load(memory.to(tl.pointer_type(tl.int16)) + place // 2).to(tl.int32) & 0xFFFF

else:

    @triton.constexpr_function
    def _claim(count):
        """The instruction that claims so many bytes."""
        return f"{{ .shared .align 16 .b8 scan_memory[{count}]; mov.u32 $0, scan_memory; }}"

    @triton.jit
    def claim_memory(pointer, thread, BYTES: tl.constexpr):
        """Memory that the threads of a program share: the address of BYTES of static shared memory. Call once in a kernel."""
        return tl.inline_asm_elementwise(_claim(BYTES), "=r,r", [thread], dtype=tl.int32, is_pure=False, pack=1)

    @triton.jit
    def from_byte(memory, place):
        """The memory from byte `place` on, a multiple of 16."""
        return memory + place

    @triton.jit
    def put(memory, place, value):
        """Store an fp32."""
        tl.inline_asm_elementwise(
            "st.shared.f32 [$1], $2; mov.b32 $0, 0;",
            "=r,r,f",
            [memory + place * 4, value],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def put_pair(memory, place, first, second):
        """Store two adjacent fp32 at an even place."""
        tl.inline_asm_elementwise(
            "st.shared.v2.f32 [$1], {$2, $3}; mov.b32 $0, 0;",
            "=r,r,f,f",
            [memory + place * 4, first, second],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def put_quad(memory, place, first, second, third, fourth):
        """Store four adjacent fp32 at a multiple of four."""
        tl.inline_asm_elementwise(
            "st.shared.v4.f32 [$1], {$2, $3, $4, $5}; mov.b32 $0, 0;",
            "=r,r,f,f,f,f",
            [memory + place * 4, first, second, third, fourth],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def get_pair(memory, place):
        """Load two adjacent fp32 from an even place."""
        return tl.inline_asm_elementwise(
            "ld.shared.v2.f32 {$0, $1}, [$2];",
            "=f,=f,r",
            [memory + place * 4],
            dtype=(tl.float32, tl.float32),
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def get_quad(memory, place):
        """Load four adjacent fp32 from a multiple of four."""
        return tl.inline_asm_elementwise(
            "ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];",
            "=f,=f,=f,=f,r",
            [memory + place * 4],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def copy_async(memory, place, pointer, BYTES: tl.constexpr, mask):
        """Copy BYTES (8 or 16), aligned to that, to byte `place` without waiting; zeros where masked."""
        size = tl.where(mask, BYTES, 0)
        if BYTES == 16:
            tl.inline_asm_elementwise(
                "cp.async.cg.shared.global [$1], [$2], 16, $3; mov.b32 $0, 0;",
                "=r,r,l,r",
                [memory + place, pointer.to(tl.int64), size],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
        else:
            tl.inline_asm_elementwise(
                "cp.async.ca.shared.global [$1], [$2], 8, $3; mov.b32 $0, 0;",
                "=r,r,l,r",
                [memory + place, pointer.to(tl.int64), size],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )

    @triton.jit
    def commit_copies(thread):
        """End a group of copies."""
        tl.inline_asm_elementwise(
            "cp.async.commit_group; mov.b32 $0, 0;", "=r,r", [thread], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def await_copies(thread):
        """Wait for all of this thread's groups of copies but the last."""
        tl.inline_asm_elementwise(
            "cp.async.wait_group 1; mov.b32 $0, 0;", "=r,r", [thread], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def await_own_copies(thread, LEFT: tl.constexpr):
        """Wait for all of the warp's groups of copies but the last LEFT (1 or 2)."""
        if LEFT == 1:
            tl.inline_asm_elementwise(
                "cp.async.wait_group 1; bar.warp.sync 0xffffffff; mov.b32 $0, 0;",
                "=r,r",
                [thread],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
        else:
            tl.inline_asm_elementwise(
                "cp.async.wait_group 2; bar.warp.sync 0xffffffff; mov.b32 $0, 0;",
                "=r,r",
                [thread],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )

    @triton.jit
    def get_word(memory, place):
        """Load 32 bits from byte `place`, a multiple of four."""
        return tl.inline_asm_elementwise(
            "ld.shared.b32 $0, [$1];", "=r,r", [memory + place], dtype=tl.int32, is_pure=False, pack=1
        )

    @triton.jit
    def get_two_words(memory, place):
        """Load two words from byte `place`, a multiple of eight."""
        return tl.inline_asm_elementwise(
            "ld.shared.v2.b32 {$0, $1}, [$2];",
            "=r,=r,r",
            [memory + place],
            dtype=(tl.int32, tl.int32),
            is_pure=False,
            pack=1,
        )

    @triton.jit
    def get_half(memory, place):
        """Load 16 bits from byte `place`, as the low half of an int32."""
        return tl.inline_asm_elementwise(
            "ld.shared.u16 $0, [$1];", "=r,r", [memory + place], dtype=tl.int32, is_pure=False, pack=1
        )
