"""AdamW of rows in Triton: a pass over the gradients for their norms, and one over everything."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.common.devices import on_device
from kernels.stacked_adamw.api import Hyper, Rows, Taken

BLOCK = 1024
SUMS = 64
"""Programs that share a row's sum of squares: every program of the update adds up theirs."""


def derive(parameters: Tensor, taken: Taken) -> None:
    """See `kernels.stacked_adamw.api`."""
    members, width = parameters.shape
    with on_device(parameters):
        derive_kernel[(triton.cdiv(width, BLOCK), members)](
            parameters, width, *_pointers(taken, parameters),
            HALF=taken.half is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip


def update(rows: Rows, gradients: Tensor, hyper: Hyper, rates: Tensor, taken: Taken) -> Tensor:
    """See `kernels.stacked_adamw.api`."""
    members, width = rows.parameters.shape
    groups = rows.steps.shape[1]
    blocks = triton.cdiv(triton.cdiv(width, SUMS), BLOCK)
    programs = triton.cdiv(width, blocks * BLOCK)
    partial, norms = gradients.new_empty(members, programs), gradients.new_empty(members)
    corrections = gradients.new_empty(members, groups, 2)
    with on_device(gradients):
        sums_kernel[(programs, members)](
            gradients, partial, rows.steps, hyper.betas, corrections, width, blocks * BLOCK, groups, gradients.stride(0),
            GROUPS=triton.next_power_of_2(groups), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
        update_kernel[(triton.cdiv(width, BLOCK), members)](
            rows.parameters, rows.exp_avg, rows.exp_avg_sq, rows.group, gradients, partial, norms, corrections,
            hyper.betas, hyper.settings, hyper.limits, rates, width, programs, groups, gradients.stride(0),
            *_pointers(taken, rows.parameters), ONE_GROUP=groups == 1, HALF=taken.half is not None,
            PARTIALS=triton.next_power_of_2(programs), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return norms


def _pointers(taken: Taken, spare: Tensor) -> tuple[Tensor, ...]:
    return (spare if taken.half is None else taken.half, taken.apart, taken.kind, taken.target, taken.stride)


# Program (share, member): the sum of squares of a share of a member's gradients. The first one also counts the update and
# computes what AdamW divides by, in fp64: 1 - beta^step loses all its digits in fp32 where beta is near one.
@triton.jit  # type: ignore[untyped-decorator]
def sums_kernel(  # type: ignore[no-untyped-def]
    gradients_ptr, partial_ptr, steps_ptr, betas_ptr, corrections_ptr, width, share, groups, stride,
    GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1)
    own = gradients_ptr + member.to(tl.int64) * stride
    first = tl.program_id(0) * share
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, tl.minimum(first + share, width), BLOCK):
        column = start + tl.arange(0, BLOCK)
        gradient = tl.load(own + column, mask=column < width, other=0.0)
        total += gradient * gradient
    tl.store(partial_ptr + member * tl.num_programs(0) + tl.program_id(0), tl.sum(total, axis=0))
    if tl.program_id(0) == 0:
        group = tl.arange(0, GROUPS)
        there = group < groups
        place = member * groups + group
        step = tl.load(steps_ptr + place, mask=there, other=0.0) + 1.0
        tl.store(steps_ptr + place, step, mask=there)
        count = step.to(tl.float64)
        beta1 = tl.load(betas_ptr + 2 * place, mask=there, other=0.5)
        beta2 = tl.load(betas_ptr + 2 * place + 1, mask=there, other=0.5)
        fall1 = 1.0 - tl.exp(count * tl.log(beta1))
        fall2 = 1.0 - tl.exp(count * tl.log(beta2))
        tl.store(corrections_ptr + 2 * place, (1.0 / fall1).to(tl.float32), mask=there)
        tl.store(corrections_ptr + 2 * place + 1, (1.0 / tl.sqrt(fall2)).to(tl.float32), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def derive_values(  # type: ignore[no-untyped-def]
    values, column, member, width, half_ptr, apart_ptr, kind_ptr, target_ptr, stride_ptr, HALF: tl.constexpr,
):  # fmt: skip
    inside = column < width
    if HALF:
        place = half_ptr + member.to(tl.int64) * width + column
        tl.store(place, values.to(half_ptr.dtype.element_ty), mask=inside)
    kind = tl.load(kind_ptr + column, mask=inside, other=0)
    wanted = kind > 0
    target = tl.load(target_ptr + column, mask=wanted, other=0) + member * tl.load(
        stride_ptr + column, mask=wanted, other=0
    )
    tl.store(apart_ptr + target, tl.where(kind == 2, -tl.exp(values), values), mask=wanted)


# Program (block of columns, member).
@triton.jit  # type: ignore[untyped-decorator]
def derive_kernel(  # type: ignore[no-untyped-def]
    parameters_ptr, width, half_ptr, apart_ptr, kind_ptr, target_ptr, stride_ptr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(parameters_ptr + member.to(tl.int64) * width + column, mask=column < width, other=0.0)
    derive_values(values, column, member, width, half_ptr, apart_ptr, kind_ptr, target_ptr, stride_ptr, HALF=HALF)


# Program (block of columns, member).
@triton.jit(do_not_specialize_on_alignment=["rates_ptr"])  # type: ignore[untyped-decorator]
def update_kernel(  # type: ignore[no-untyped-def]
    parameters_ptr, average_ptr, square_ptr, group_ptr, gradients_ptr, partial_ptr, norms_ptr, corrections_ptr, betas_ptr,
    settings_ptr, limits_ptr, rates_ptr, width, programs, groups, stride, half_ptr, apart_ptr, kind_ptr, target_ptr, stride_ptr,
    ONE_GROUP: tl.constexpr, HALF: tl.constexpr, PARTIALS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    place = member.to(tl.int64) * width + column
    gradient = tl.load(gradients_ptr + member.to(tl.int64) * stride + column, mask=inside, other=0.0)
    average = tl.load(average_ptr + place, mask=inside, other=0.0)
    square = tl.load(square_ptr + place, mask=inside, other=0.0)
    value = tl.load(parameters_ptr + place, mask=inside, other=0.0)
    share = tl.arange(0, PARTIALS)
    sums = tl.load(partial_ptr + member * programs + share, mask=share < programs, other=0.0)
    norm = tl.sqrt_rn(tl.sum(sums, axis=0))
    if tl.program_id(0) == 0:
        tl.store(norms_ptr + member, norm)
    gradient *= tl.minimum(tl.load(limits_ptr + member) / (norm + 1e-6), 1.0)
    if ONE_GROUP:
        own = member
    else:
        own = member * groups + tl.load(group_ptr + column, mask=inside, other=0)
    beta1, beta2 = tl.load(betas_ptr + 2 * own), tl.load(betas_ptr + 2 * own + 1)
    epsilon, decay = tl.load(settings_ptr + 2 * own), tl.load(settings_ptr + 2 * own + 1)
    rate = tl.load(rates_ptr + own)
    value -= rate * decay * value
    average = beta1.to(tl.float32) * average + (1.0 - beta1).to(tl.float32) * gradient
    square = beta2.to(tl.float32) * square + (1.0 - beta2).to(tl.float32) * gradient * gradient
    below = tl.sqrt_rn(square) * tl.load(corrections_ptr + 2 * own + 1) + epsilon
    value -= rate * tl.load(corrections_ptr + 2 * own) * tl.div_rn(average, below)
    tl.store(average_ptr + place, average, mask=inside)
    tl.store(square_ptr + place, square, mask=inside)
    tl.store(parameters_ptr + place, value, mask=inside)
    derive_values(value, column, member, width, half_ptr, apart_ptr, kind_ptr, target_ptr, stride_ptr, HALF=HALF)
