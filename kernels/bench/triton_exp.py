# mypy: ignore-errors
"""The rate of exponentials: chains of ex2 in registers, nothing else."""

import triton
import triton.language as tl


# Program: BLOCK values in registers; each step is one multiply-add and one ex2 per value.
@triton.jit
def exp_chain(out_ptr, steps, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = offset.to(tl.float32) * 1e-9
    for _ in range(steps):
        value = tl.exp2(value * -0.5)
    tl.store(out_ptr + offset, value)
