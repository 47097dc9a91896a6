"""Products of several models' weights at once, (members, rows, columns), in the layouts that what follows reads.

`rows` may lie in memory as (members, rows) or, side by side, as (rows, members); a gradient goes back as its input came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.training.projections import Projections


class Products(torch.autograd.Function):
    """x (members, ..., inputs), weight (members, outputs, inputs), bias (members, outputs)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, projections: Projections, side_by_side: bool
    ) -> Tensor:
        taken = projections.cast(weight)
        fed = x.to(taken.dtype)
        rows = fed.flatten(1, -2)
        y = _bmm(rows, taken.transpose(1, 2), taken.dtype, side_by_side=side_by_side)
        if bias is not None:
            y += projections.cast(bias)[:, None]
        ctx.save_for_backward(rows, taken)
        ctx.weight, ctx.bias, ctx.projections = weight, bias, projections
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        lead, outputs = x.shape[1:-1], weight.shape[1]
        if side_by_side:
            return y.transpose(0, 1).view(*lead, len(x), outputs)
        return y.view(len(x), *lead, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, taken = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        dy = dy.flatten(0, -3).transpose(0, 1) if ctx.side_by_side else dy.flatten(1, -2)
        dx = None
        if ctx.needs_input_grad[0]:
            came_so = not rows.is_contiguous() and rows.transpose(0, 1).is_contiguous()
            dx = _as_it_came(_bmm(dy, taken, ctx.x_dtype, side_by_side=came_so), ctx.x_shape, side_by_side=came_so)
        with ctx.projections.aside(weight, dy, rows):
            dweight = _bmm(dy.transpose(1, 2), rows, weight.dtype)
            dbias = None if bias is None else dy.sum(1, dtype=bias.dtype)
        return dx, dweight, dbias, None, None


class Parts(torch.autograd.Function):
    """As `Products` without a bias, cut along the outputs. Their gradients are multiplied part by part: nothing joins them.

    Parts that are wanted side by side are products of their own, since a part of one product could not be laid out so.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, sizes: tuple[int, ...], projections: Projections, side_by_side: bool
    ) -> tuple[Tensor, ...]:
        taken = projections.cast(weight)
        fed = x.to(taken.dtype)
        rows, lead = fed.flatten(1, -2), x.shape[1:-1]
        ctx.save_for_backward(rows, taken)
        ctx.weight, ctx.projections, ctx.sizes = weight, projections, sizes
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        if side_by_side:
            products = [
                _bmm(rows, part.transpose(1, 2), taken.dtype, side_by_side=True)
                for part in torch.split(taken, list(sizes), 1)
            ]
            return tuple(one.transpose(0, 1).view(*lead, len(x), -1) for one in products)
        whole = _bmm(rows, taken.transpose(1, 2), taken.dtype).view(len(x), *lead, -1)
        return torch.split(whole, list(sizes), -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *parts: Tensor) -> tuple[Tensor | None, ...]:
        rows, taken = ctx.saved_tensors
        cut = [(dy, own) for dy, own in zip(parts, torch.split(taken, list(ctx.sizes), 1), strict=True) if own.shape[1]]
        slopes = [dy.flatten(0, -3).transpose(0, 1) if ctx.side_by_side else dy.flatten(1, -2) for dy, _ in cut]
        dx = None
        if ctx.needs_input_grad[0]:
            came_so = not rows.is_contiguous() and rows.transpose(0, 1).is_contiguous()
            weights = [own for _, own in cut]
            dx = _sum_of_products(slopes, weights, ctx.x_dtype, side_by_side=came_so)
            dx = _as_it_came(dx, ctx.x_shape, side_by_side=came_so)
        with ctx.projections.aside(ctx.weight, *slopes, rows):
            dweight = torch.cat([_bmm(dy.transpose(1, 2), rows, ctx.weight.dtype) for dy in slopes], 1)
        return dx, dweight, None, None, None


def _sum_of_products(
    left: Sequence[Tensor], right: Sequence[Tensor], dtype: torch.dtype, *, side_by_side: bool
) -> Tensor:
    total = _bmm(left[0], right[0], dtype, side_by_side=side_by_side)
    for one, other in zip(left[1:], right[1:], strict=True):
        if one.dtype == total.dtype:
            total.baddbmm_(one, other)
        else:
            total += _bmm(one, other, dtype, side_by_side=side_by_side)
    return total


def _as_it_came(dx: Tensor, shape: torch.Size, *, side_by_side: bool) -> Tensor:
    """View the rows (members, rows, inputs) of a gradient in the shape of what they are a gradient of."""
    if side_by_side:
        return dx.transpose(0, 1).view(*shape[1:-1], shape[0], shape[-1]).movedim(-2, 0)
    return dx.view(shape)


def _bmm(left: Tensor, right: Tensor, dtype: torch.dtype, *, side_by_side: bool = False) -> Tensor:
    """Multiply and round once, to `dtype`; (members, rows, columns), which lie in memory as (rows, members, columns) if asked."""
    if left.dtype != dtype and left.is_cuda:
        product: Tensor = torch.bmm(left, right, out_dtype=dtype)
        return product.transpose(0, 1).contiguous().transpose(0, 1) if side_by_side else product
    if not side_by_side:
        return torch.bmm(left, right).to(dtype)
    members, count, columns = left.shape[0], left.shape[1], right.shape[2]
    out = left.new_empty(count, members, columns).transpose(0, 1)
    torch.bmm(left, right, out=out)
    return out.to(dtype)


class LookUp(torch.autograd.Function):
    """tokens (members, batch, seqlen), weight (members, vocab_size, d_model)."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, projections: Projections) -> Tensor:
        members, vocab_size, _ = weight.shape
        with projections.aside(weight):
            ctx.save_for_backward(projections.one_hot(tokens, vocab_size))
        ctx.weight, ctx.projections = weight, projections
        member = torch.arange(members, device=tokens.device).view(-1, *(1 for _ in tokens.shape[1:]))
        return weight[member, tokens]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        with ctx.projections.aside(ctx.weight, dy):
            # a product a sequence, then their sum: one product over all positions would be slow, and no more exact
            each = torch.matmul(rows.to(dy.dtype).transpose(-1, -2), dy)
            dweight = each.flatten(1, -3).sum(1)
        return None, dweight, None
