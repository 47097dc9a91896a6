"""Products of several models' weights at once, (members, rows, columns), in the layouts that what follows reads.

`rows` may lie in memory as (members, rows) or, side by side, as (rows, members); a gradient goes back as its input came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import stacked_products as small
from workers.training.projections import Projections


class MappedOver(torch.autograd.Function):
    """What is mapped over the members; only its rule runs, as a weight without members would be no parameter."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        raise NotImplementedError("stacked projections are for use inside vmap over the weights")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: see `forward`."""


class Products(torch.autograd.Function):
    """x (members, ..., inputs), weight (members, outputs, inputs), bias (members, outputs)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, projections: Projections, side_by_side: bool
    ) -> Tensor:
        taken = projections.cast(weight)
        ctx.weight, ctx.bias, ctx.projections = weight, bias, projections
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        ctx.small = bias is None and small.serves(taken, 1)
        if ctx.small:
            rows, (y,) = _spread(x, taken, (weight.shape[1],), side_by_side=side_by_side)
            ctx.save_for_backward(rows, taken)
            return y
        fed = x.to(taken.dtype)
        rows = fed.flatten(1, -2)
        y = _bmm(rows, taken.transpose(1, 2), taken.dtype, side_by_side=side_by_side)
        if bias is not None:
            y += projections.cast(bias)[:, None]
        ctx.save_for_backward(rows, taken)
        lead, outputs = x.shape[1:-1], weight.shape[1]
        if side_by_side:
            return y.transpose(0, 1).view(*lead, len(x), outputs)
        return y.view(len(x), *lead, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, taken = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        dy = rows_of(dy, side_by_side=ctx.side_by_side)
        if ctx.small:
            return *_small_gradients(ctx, [dy], [taken], rows), None, None, None
        dx = None
        if ctx.needs_input_grad[0]:
            came_so = lies_side_by_side(rows)
            dx = as_it_came(_bmm(dy, taken, ctx.x_dtype, side_by_side=came_so), ctx.x_shape, side_by_side=came_so)
        with ctx.projections.aside(weight, dy, rows, loose=True):
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
        ctx.weight, ctx.projections, ctx.sizes = weight, projections, sizes
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        ctx.small = small.serves(taken, len(sizes))
        if ctx.small:
            rows, parts = _spread(x, taken, sizes, side_by_side=side_by_side)
            ctx.save_for_backward(rows, taken)
            return parts
        fed = x.to(taken.dtype)
        rows, lead = fed.flatten(1, -2), x.shape[1:-1]
        ctx.save_for_backward(rows, taken)
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
        slopes = [rows_of(dy, side_by_side=ctx.side_by_side) for dy, _ in cut]
        weights = [own for _, own in cut]
        if ctx.small:
            return *_small_gradients(ctx, slopes, weights, rows), None, None, None
        dx = None
        if ctx.needs_input_grad[0]:
            came_so = lies_side_by_side(rows)
            dx = _sum_of_products(slopes, weights, ctx.x_dtype, side_by_side=came_so)
            dx = as_it_came(dx, ctx.x_shape, side_by_side=came_so)
        with ctx.projections.aside(ctx.weight, *slopes, rows, loose=True):
            dweight = torch.cat([_bmm(dy.transpose(1, 2), rows, ctx.weight.dtype) for dy in slopes], 1)
        return dx, dweight, None, None, None


def _spread(x: Tensor, taken: Tensor, sizes: Sequence[int], *, side_by_side: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Multiply; return what was multiplied, (members, rows, inputs), and the parts, each with memory of its own."""
    members, lead = len(x), x.shape[1:-1]
    given = x.flatten(1, -2)
    fed = given if given.dtype == taken.dtype else torch.empty_like(given, dtype=taken.dtype)
    shapes = [(*lead, members, size) if side_by_side else (members, *lead, size) for size in sizes]
    parts = tuple(x.new_empty(shape, dtype=taken.dtype) for shape in shapes)
    outs = [rows_of(part, side_by_side=side_by_side) for part in parts]
    small.spread(given, taken, outs, None if fed is given else fed)
    return fed, parts


def _small_gradients(
    ctx: Any, slopes: Sequence[Tensor], weights: Sequence[Tensor], rows: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients of what was multiplied and of the weight."""
    slopes, dx = [dense(dy) for dy in slopes], None
    if ctx.needs_input_grad[0]:
        out = laid_like(rows, ctx.x_dtype)
        small.add_up(slopes, weights, out)
        dx = as_it_came(out, ctx.x_shape, side_by_side=lies_side_by_side(rows))
    return dx, weight_gradient(ctx.projections, ctx.weight, slopes, rows)


def weight_gradient(projections: Projections, weight: Tensor, slopes: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Return a weight's gradient of dense slopes, a part each, and rows, (members, rows, columns); made beside the chain."""
    with projections.aside(weight, *slopes, rows, loose=True):
        dweight = torch.empty(weight.shape, dtype=weight.dtype, device=rows.device)
        small.weight_gradient(slopes, rows, dweight)
    return dweight


def dense(rows: Tensor) -> Tensor:
    """Return rows with their columns next to each other, as the kernels read them."""
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def laid_like(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return memory of the shape of rows (members, rows, columns), side by side if they lie so."""
    if lies_side_by_side(rows):
        members, count, columns = rows.shape
        return rows.new_empty(count, members, columns, dtype=dtype).transpose(0, 1)
    return rows.new_empty(rows.shape, dtype=dtype)


def rows_of(values: Tensor, *, side_by_side: bool) -> Tensor:
    """View (members, ..., columns) or, side by side, (..., members, columns) as (members, rows, columns)."""
    return values.flatten(0, -3).transpose(0, 1) if side_by_side else values.flatten(1, -2)


def check_own(projections: Projections, weight: Tensor) -> None:
    """Refuse a weight that is no parameter of the stack."""
    if id(weight) not in projections.own:
        raise NotImplementedError(
            "a layer's weight is computed, not one of the model's parameters: it has no place here"
        )


def lies_side_by_side(rows: Tensor) -> bool:
    """Say whether (members, rows, columns) lie in memory as (rows, members)."""
    return not rows.is_contiguous() and rows.transpose(0, 1).is_contiguous()


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


def as_it_came(dx: Tensor, shape: torch.Size, *, side_by_side: bool) -> Tensor:
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
        ctx.small = small.serves_tokens(weight)
        if ctx.small:
            named = tokens.flatten(1)
            ctx.save_for_backward(named)
            ctx.weight, ctx.projections = weight, projections
            return small.embed(named, weight.detach()).view(*tokens.shape, -1)
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
            if ctx.small:
                return None, small.embedding_gradient(rows, dy.flatten(1, -2), ctx.weight.shape[1]), None
            # a product a sequence, then their sum: one product over all positions would be slow, and no more exact
            each = torch.matmul(rows.to(dy.dtype).transpose(-1, -2), dy)
            dweight = each.flatten(1, -3).sum(1)
        return None, dweight, None
