"""The public functions. Tensors are (members, rows, columns) views in whatever layout has its columns next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.common.choice import wants_triton

MAX_INNER, MAX_OUTER = 256, 1024
"""Columns that are summed over, and columns of a product: an operand's whole inner dimension lies in registers."""

MAX_PARTS = 3
MAX_THROUGH, MAX_THROUGH_INNER = 64, 128
"""Columns between two products, and of what the first takes and the second gives, which lie whole in a program."""

MAX_WIDTH, MAX_SEAM = 64, 128
"""Of a seam: a row's width, and columns of the product before it and of each part of those behind it."""

MAX_SEAM_ROWS = 2**14
"""Rows of all members up to which a seam with a way back pays: programs that an H100 runs at once. Of a step of 8 members of 2,048
rows it takes 21 microseconds off, to 16 members' it adds 41 (2026-11-25). Without a way back it always pays."""

MAX_VOCAB = 64
"""Tokens whose gradient one program keeps: a row of each."""

_HALVES = (torch.bfloat16, torch.float16)


class Before(NamedTuple):
    """The product in front of a seam: rows (members, rows, inputs) and a weight (members, width, inputs)."""

    rows: Tensor
    weight: Tensor


class Kept(NamedTuple):
    """What the way back is made of: the normed rows as products take them, (members, rows, width), and one number a row."""

    normed: Tensor
    rstd: Tensor


class Back(NamedTuple):
    """The way back through the product in front: its weight, and where gradients of what it gives, contiguous, and of its rows go."""

    weight: Tensor
    dadded: Tensor
    drows: Tensor


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


def serves_seam(dtype: torch.dtype, device_type: str, width: int, sizes: Sequence[int]) -> bool:
    """Say whether `seam` takes products of such a dtype between rows of such a width and parts of such sizes."""
    return (
        dtype in _HALVES
        and width <= MAX_WIDTH
        and 1 <= len(sizes) <= 2
        and min(sizes) >= 1
        and max(sizes) <= MAX_SEAM
        and wants_triton("stacked_products", "auto", device_type)
    )


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


def seam(
    residual: Tensor,
    before: Before | None,
    norm: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    outs: Sequence[Tensor],
    stream: Tensor | None,
    kept: Kept | None,
) -> None:
    """Add a product to the residual, (members, rows, width), take the RMS norm by `norm` (members, width), and multiply.

    The product is rounded to its operands' dtype, sums and norm are fp32, the normed rows are rounded for the products that
    follow, and each of those once: normed weights[i]^T goes to outs[i], one or two. `stream`, fp32 and contiguous, gets the sum
    (None: the residual is the stream, `before` is None); `kept`, contiguous, what the way back is made of.
    """
    _seam().seam(residual, before, norm, eps, weights, outs, stream, kept)


def seam_gradient(
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    dstream: Tensor | None,
    stream: Tensor,
    rstd: Tensor,
    norm: Tensor,
    back: Back | None,
    dresidual: Tensor,
) -> Tensor:
    """Go back through `seam`: slopes of `outs` and of the stream. Returns shares of the norm's gradient (programs, members, width).

    `dresidual`, fp32 and contiguous, gets the gradient of the residual.
    """
    shares: Tensor = _seam().seam_gradient(slopes, weights, dstream, stream, rstd, norm, back, dresidual)
    return shares


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


def _seam() -> Any:
    from kernels.stacked_products import triton_seam

    return triton_seam


def _through() -> Any:
    from kernels.stacked_products import triton_through

    return triton_through
