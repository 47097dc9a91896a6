"""`project_through` of several models at once: two products forward, and two and a sum backward, in one kernel each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import stacked_products as small
from workers.training.projections import Projections
from workers.training.stacked_products import as_it_came, dense, laid_like, lies_side_by_side, rows_of, weight_gradient


def serves_through(projections: Projections, weight: Tensor, own: Tensor, sizes: tuple[int, ...]) -> bool:
    """Say whether `Through` can do it."""
    taken, first = projections.cast(weight), projections.cast(own)
    return small.serves(taken, len(sizes)) and small.serves(first, 1) and small.serves_through(taken, sizes)


class Through(torch.autograd.Function):
    """x (members, ..., inputs), weight (members, sum of sizes, inputs), own (members, outputs, sizes[0]); three sizes.

    Returns x, the first part through `own` (side by side if asked), and the others. The gradient of the returned x is added to
    that of the products in their kernel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        own: Tensor,
        sizes: tuple[int, ...],
        projections: Projections,
        side_by_side: bool,
    ) -> tuple[Tensor, ...]:
        taken, first = projections.cast(weight), projections.cast(own)
        members, lead, outputs = len(x), x.shape[1:-1], own.shape[1]
        rows = x.flatten(1, -2)
        rows = rows if rows.dtype == taken.dtype else rows.to(taken.dtype)
        dt = rows.new_empty((*lead, members, outputs) if side_by_side else (members, *lead, outputs))
        parts = [rows.new_empty(members, *lead, size) for size in sizes]
        through = rows_of(dt, side_by_side=side_by_side)
        small.through(rows, taken, first, through, [part.flatten(1, -2) for part in parts])
        ctx.save_for_backward(rows, taken, first, parts[0].flatten(1, -2))
        ctx.weight, ctx.own, ctx.sizes, ctx.projections = weight, own, sizes, projections
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        return x.view_as(x), dt, *parts[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, ddt: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        rows, taken, first, part = ctx.saved_tensors
        given = [dense(rows_of(ddt, side_by_side=ctx.side_by_side)), *(dense(one.flatten(1, -2)) for one in others)]
        out = laid_like(rows, ctx.x_dtype)
        dpart = torch.empty_like(part)
        added = None if dx is None else dense(dx.flatten(1, -2))
        small.through_gradient(given, taken, first, added, dpart, out)
        down = weight_gradient(ctx.projections, ctx.own, given[:1], part)
        dweight = weight_gradient(ctx.projections, ctx.weight, [dpart, *given[1:]], rows)
        dx = as_it_came(out, ctx.x_shape, side_by_side=lies_side_by_side(rows))
        return dx, dweight, down, None, None, None
