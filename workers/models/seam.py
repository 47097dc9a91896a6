"""What lies between two layers: the last projection of one, the residual addition, the norm, and the first projection of the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from workers.models.block import LayerNorm, RMSNorm
from workers.models.split import project

Norm = RMSNorm | LayerNorm


def joins(norm: Norm, into: Sequence[tuple[Tensor, Sequence[int]]], out: Sequence[Tensor], positions: int) -> bool:
    """Say whether somebody takes over `across` for such weights: else layers go their usual way.

    Args:
        norm: any of the model's norms, which are alike.
        into: weights of first projections, and the sizes of the parts that they are cut into.
        out: weights of last projections.
        positions: of all sequences.
    """
    if has_torch_function((norm.weight,)):
        found: bool = handle_torch_function(joins, (norm.weight,), norm, into, out, positions)
        return found
    return False


def across(
    rows: Tensor, own: Tensor | None, residual: Tensor | None, norm: Norm, weight: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, ...]:
    """Add rows, through `own` if given, to the residual stream; return what `project` makes of the norm, and the stream."""
    if has_torch_function((rows, weight)):
        found: tuple[Tensor, ...] = handle_torch_function(
            across, (rows, weight), rows, own, residual, norm, weight, sizes
        )
        return found
    normed, stream = norm(rows if own is None else F.linear(rows, own), residual)
    return (*project(normed, weight, sizes), stream)
