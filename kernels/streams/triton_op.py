"""PyTorch's random numbers on CUDA, of several generators in one kernel: Philox 4x32-10, counted as PyTorch counts."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.common.devices import on_device

BLOCK = 256


def draw(out: Tensor, seeds: Tensor, offset: int, threads: int, *, low: int, span: int, pairs: bool) -> None:
    """Fill (streams, ...) contiguous: integers in [low, low + span), or where `span` is 0 numbers in [0, 1)."""
    count = out[0].numel()
    with on_device(out):
        draw_kernel[(triton.cdiv(count, BLOCK), len(seeds))](
            seeds, out, count, threads, offset, low, span,
            UNIFORM=span == 0, PAIRS=pairs, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip


# Program (block, stream): numbers [block * BLOCK, ...) of a stream. PyTorch's thread i draws the numbers i, i + threads, ...,
# four words or two pairs of words a call; curand gives thread i the subsequence i.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["count", "threads", "offset", "low", "span"], do_not_specialize_on_alignment=["seeds_ptr"]
)
def draw_kernel(  # type: ignore[no-untyped-def]
    seeds_ptr, out_ptr, count, threads, offset, low, span,
    UNIFORM: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    stream = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(seeds_ptr + stream)
    turn = place // threads
    per_call: tl.constexpr = 2 if PAIRS else 4
    call = (offset + turn // per_call).to(tl.uint32)
    part = turn % per_call
    lane = (place % threads).to(tl.uint32)
    nothing = tl.zeros((BLOCK,), tl.uint32)
    a, b, c, d = tl.philox(seed, call, nothing, lane, nothing)
    if PAIRS:
        first = tl.where(part == 0, a, c).to(tl.uint64)
        second = tl.where(part == 0, b, d).to(tl.uint64)
        if UNIFORM:
            word = first ^ (second << 21)
            tiny = 1.1102230246251565e-16  # 2^-53
            value = word.to(tl.float64) * tiny + tiny / 2.0
            value = tl.where(value == 1.0, 0.0, value)
        else:
            value = ((first << 32 | second) % span.to(tl.uint64)).to(tl.int64) + low
    else:
        word = tl.where(part < 2, tl.where(part == 0, a, b), tl.where(part == 2, c, d))
        if UNIFORM:
            value = word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33
            value = tl.where(value == 1.0, 0.0, value)
        else:
            value = (word % span.to(tl.uint32)).to(tl.int64) + low
    tl.store(out_ptr + stream.to(tl.int64) * count + place, value.to(out_ptr.dtype.element_ty), mask=place < count)
