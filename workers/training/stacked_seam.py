"""`across` of several models at once: what lies between two layers in one kernel forward and one back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import stacked_products as small
from kernels.common.members import first
from kernels.common.triton_reduce import sum_partials
from workers.models.block import RMSNorm
from workers.models.seam import Norm
from workers.training.projections import Projections
from workers.training.stacked_products import (
    MappedOver,
    as_it_came,
    check_own,
    dense,
    laid_like,
    lies_side_by_side,
    rows_of,
    weight_gradient,
)


def joined(
    projections: Projections,
    norm: Norm,
    into: Sequence[tuple[Tensor, Sequence[int]]],
    out: Sequence[Tensor],
    positions: int,
) -> bool:
    """Say whether `Seam` can do it for all of a model's layers, and pays; weights and positions are those of one member."""
    members = len(next(iter(projections.own.values())))
    if torch.is_grad_enabled() and members * positions > small.MAX_SEAM_ROWS:
        return False
    device = projections.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else norm.weight.dtype
    return (
        isinstance(norm, RMSNorm)
        and norm.weight.dtype == torch.float32
        and norm.implementation in ("auto", "triton")
        and all(small.serves_seam(dtype, device, weight.shape[1], sizes) for weight, sizes in into)
        and all(small.serves_seam(dtype, device, weight.shape[0], (weight.shape[1],)) for weight in out)
    )


class Across(MappedOver):
    """`across`."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        rows: Tensor,
        own: Tensor | None,
        residual: Tensor | None,
        norm: Tensor,
        weight: Tensor,
        eps: float,
        sizes: tuple[int, ...],
        projections: Projections,
        side_by_side: frozenset[int],
        keep: bool,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Compute all members' at once."""
        for one in (own, norm, weight):
            if one is not None:
                check_own(projections, one)
                projections.use(one)
        rows = first(rows, in_dims[0], info.batch_size)
        residual = None if residual is None else first(residual, in_dims[2], info.batch_size)
        beside = id(weight) in side_by_side
        *parts, stream = Seam.apply(rows, own, residual, norm, weight, eps, sizes, projections, beside, keep)  # type: ignore[no-untyped-call]
        return (*parts, stream), (*(part.dim() - 2 if beside else 0 for part in parts), 0)


class Seam(torch.autograd.Function):
    """rows (members, ..., inputs), own (members, width, inputs), residual (members, ..., width), norm (members, width).

    Either own and residual are given or neither: then rows are the stream. weight (members, sum of sizes, width). Without `keep`
    nothing is kept for a way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        own: Tensor | None,
        residual: Tensor | None,
        norm: Tensor,
        weight: Tensor,
        eps: float,
        sizes: tuple[int, ...],
        projections: Projections,
        side_by_side: bool,
        keep: bool,
    ) -> tuple[Tensor, ...]:
        taken = projections.cast(weight)
        members, lead, width = len(rows), rows.shape[1:-1], taken.shape[2]
        base = rows if residual is None else residual
        flat = base.flatten(1, -2)
        before = None
        if own is not None:
            before = small.Before(dense(rows.flatten(1, -2)).to(taken.dtype), projections.cast(own))
        stream = rows.view_as(rows) if before is None else base.new_empty(members, *lead, width, dtype=torch.float32)
        kept = None
        if keep:
            normed = flat.new_empty(members, flat.shape[1], width, dtype=taken.dtype)
            kept = small.Kept(normed, flat.new_empty(normed.shape[:2], dtype=torch.float32))
        shapes = [(*lead, members, size) if side_by_side else (members, *lead, size) for size in sizes]
        parts = [taken.new_empty(shape) for shape in shapes]
        small.seam(
            dense(flat),
            before,
            norm.detach(),
            eps,
            torch.split(taken, list(sizes), 1),
            [rows_of(part, side_by_side=side_by_side) for part in parts],
            None if before is None else stream.flatten(1, -2),
            kept,
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(stream, *(kept or ()), taken, *(before or ()))
        ctx.weights, ctx.projections, ctx.sizes = (own, norm, weight), projections, sizes
        ctx.rows_shape, ctx.rows_dtype, ctx.side_by_side = rows.shape, rows.dtype, side_by_side
        return (*parts, stream)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        stream, normed, rstd, taken, *before = ctx.saved_tensors
        own, norm, weight = ctx.weights
        *parts, dstream = gradients
        slopes = [dense(rows_of(part, side_by_side=ctx.side_by_side)) for part in parts if part is not None]
        assert len(slopes) == len(parts), "a part of a projection is not used"
        dresidual = torch.empty(stream.shape, dtype=torch.float32, device=stream.device)
        back = None if own is None else _way_back(before[0], before[1], ctx.rows_dtype)
        # begun beside the chain before the next kernel of it, which does not wait for it
        dweight = weight_gradient(ctx.projections, weight, slopes, normed)
        partial = small.seam_gradient(
            slopes,
            torch.split(taken, list(ctx.sizes), 1),
            None if dstream is None else dense(dstream.flatten(1, -2)),
            dense(stream.flatten(1, -2)),
            rstd,
            norm.detach(),
            back,
            dresidual.flatten(1, -2),
        )
        found: list[Tensor | None] = [dresidual, None, None]
        if back is not None:
            rows = before[0]
            down = weight_gradient(ctx.projections, own, [back.dadded], rows)
            drows = as_it_came(back.drows, ctx.rows_shape, side_by_side=lies_side_by_side(rows))
            found = [drows, down, dresidual]
        with ctx.projections.aside(norm, partial):
            dnorm = torch.empty(norm.shape, dtype=norm.dtype, device=partial.device)
            sum_partials(partial, dnorm)
        return *found, dnorm, dweight, None, None, None, None, None


def _way_back(rows: Tensor, weight: Tensor, dtype: torch.dtype) -> small.Back:
    """Return memory for the gradients of a product's result, and of its rows as they lie."""
    return small.Back(weight, rows.new_empty(*rows.shape[:2], weight.shape[1]), laid_like(rows, dtype))
