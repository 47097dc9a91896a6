"""Sums of per-program partial results over programs, in a fixed order: what the backward passes use instead of atomics.

The split into groups depends on the shape alone, so the bits of the sum do not change from run to run or from card to card.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS_IN_ONE_PASS = 1024
ROWS_PER_GROUP = 256
BLOCK_ROWS, BLOCK_COLUMNS = 64, 32


# Program (column block, plane, group): sums rows [group * per_group, ...) of partial (rows, planes, columns), fp32 contiguous.
@triton.jit  # type: ignore[untyped-decorator]
def _sum_rows(  # type: ignore[no-untyped-def]
    partial_ptr, out_ptr, last_ptr, rows, columns, per_group, stride_out_group, stride_out_plane, stride_out_column, stride_last,
    SPLIT_LAST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(1)
    planes = tl.num_programs(1)
    group = tl.program_id(2)
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = group * per_group
    end = tl.minimum(first + per_group, rows)
    total = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(first, end, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        offset = (row[:, None].to(tl.int64) * planes + plane) * columns + column[None, :]
        inside = (row[:, None] < end) & (column[None, :] < columns)
        total += tl.sum(tl.load(partial_ptr + offset, mask=inside, other=0.0), axis=0)
    if SPLIT_LAST and plane == planes - 1:
        tl.store(last_ptr + column * stride_last, total.to(last_ptr.dtype.element_ty), mask=column < columns)
    else:
        target = out_ptr + group.to(tl.int64) * stride_out_group + plane * stride_out_plane + column * stride_out_column
        tl.store(target, total.to(out_ptr.dtype.element_ty), mask=column < columns)


def sum_partials(partial: Tensor, out: Tensor, last: Tensor | None = None) -> None:
    """Write the sum over the first dimension of `partial` (rows, planes, columns) into `out` (planes, columns), any strides.

    With `last` given, the last plane goes there instead and `out` has one plane fewer. Sums are kept in fp32.
    """
    rows, planes, columns = partial.shape
    if rows > ROWS_IN_ONE_PASS:
        groups = triton.cdiv(rows, ROWS_PER_GROUP)
        grouped = torch.empty((groups, planes, columns), dtype=torch.float32, device=partial.device)
        _sum_rows[(triton.cdiv(columns, BLOCK_COLUMNS), planes, groups)](
            partial, grouped, grouped, rows, columns, ROWS_PER_GROUP, *grouped.stride(), 1,
            SPLIT_LAST=False, BLOCK_R=BLOCK_ROWS, BLOCK_C=BLOCK_COLUMNS,
        )  # fmt: skip
        sum_partials(grouped, out, last)
        return
    target = out if last is None else last
    _sum_rows[(triton.cdiv(columns, BLOCK_COLUMNS), planes, 1)](
        partial, out, target, rows, columns, rows, 0, *out.stride(), target.stride(-1),
        SPLIT_LAST=last is not None, BLOCK_R=BLOCK_ROWS, BLOCK_C=BLOCK_COLUMNS,
    )  # fmt: skip
