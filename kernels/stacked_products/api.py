"""The public functions. Tensors are (members, rows, columns) views in whatever layout has its columns next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.common.choice import wants_triton

MAX_INNER, MAX_OUTER = 256, 1024
"""Columns that are summed over, and columns of a product: an operand's whole inner dimension lies in registers."""

MAX_PARTS = 3
MAX_THROUGH, MAX_THROUGH_INNER = 64, 128
"""Columns between two products, and of what the first takes and the second gives, which lie whole in a program."""

MAX_VOCAB = 64
"""Tokens whose gradient one program keeps: a row of each."""

_HALVES = (torch.bfloat16, torch.float16)


def serves(weight: Tensor, parts: int) -> bool:
    """Say whether products with weights (members, outputs, inputs), as they are taken, and their gradients can be made here."""
    return (
        weight.dtype in _HALVES
        and parts <= MAX_PARTS
        and weight.shape[1] <= MAX_INNER
        and weight.shape[2] <= MAX_INNER
        and wants_triton("stacked_products", "auto", weight.device.type)
    )


def serves_tokens(weight: Tensor) -> bool:
    """Say whether the rows of an embedding (members, vocab_size, width) can be looked up here, and its gradient made."""
    return (
        weight.dtype == torch.float32
        and weight.shape[1] <= MAX_VOCAB
        and weight.shape[2] <= MAX_INNER
        and wants_triton("stacked_products", "auto", weight.device.type)
    )


def serves_through(weight: Tensor, sizes: Sequence[int]) -> bool:
    """Say whether `through` can cut the outputs of a weight that `serves`: three parts, few columns."""
    return len(sizes) == 3 and all(sizes) and weight.shape[1] <= MAX_THROUGH and weight.shape[2] <= MAX_THROUGH_INNER


def spread(x: Tensor, weight: Tensor, outs: Sequence[Tensor], fed: Tensor | None) -> None:
    """Write x weight^T, (members, rows, outputs), cut along the outputs into `outs`; each rounded once, from fp32.

    `fed`, where given, gets x in the weight's dtype, which is what is multiplied.
    """
    _triton().spread(x, weight, outs, fed)


def add_up(lefts: Sequence[Tensor], weights: Sequence[Tensor], out: Tensor) -> None:
    """Write the sum of left (members, rows, n) times weight (members, n, columns) over the parts, rounded once."""
    _triton().add_up(lefts, weights, out)


def through(rows: Tensor, weight: Tensor, own: Tensor, out: Tensor, parts: Sequence[Tensor]) -> None:
    """Write rows weight^T cut into three parts, and the first of them times own^T into `out`; each rounded once."""
    _through().through(rows, weight, own, out, parts)


def through_gradient(
    slopes: Sequence[Tensor], weight: Tensor, own: Tensor, added: Tensor | None, dpart: Tensor, out: Tensor
) -> None:
    """Go back through `through`: slopes of `out` and of the later parts; what reaches rows, and `added` to it, goes to `out`.

    What reaches the first part goes to `dpart`, rounded once; it is added up as it is rounded.
    """
    _through().through_gradient(slopes, weight, own, added, dpart, out)


def weight_gradient(lefts: Sequence[Tensor], rows: Tensor, out: Tensor) -> None:
    """Write left^T rows of each part below each other, (members, sum of left's columns, columns of rows), fp32."""
    _triton().weight_gradient(lefts, rows, out)


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the rows (members, rows, width) that tokens (members, rows) name in weight (members, vocab_size, width)."""
    found: Tensor = _triton().embed(tokens, weight)
    return found


def embedding_gradient(tokens: Tensor, dy: Tensor, vocab_size: int) -> Tensor:
    """Return the sum of the rows of dy (members, rows, width) by token, (members, vocab_size, width); in a fixed order."""
    found: Tensor = _triton().embedding_gradient(tokens, dy, vocab_size)
    return found


def _triton() -> Any:
    from kernels.stacked_products import triton_op

    return triton_op


def _through() -> Any:
    from kernels.stacked_products import triton_through

    return triton_through
