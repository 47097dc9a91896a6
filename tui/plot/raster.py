"""Polylines to braille cells: 2 x 4 dots a cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tui.plot.scale import Scale
from tui.plot.series import Floats, Points

Bits = NDArray[np.uint8]
BRAILLE = 0x2800
FAR = 1e9  # dots: beyond it a number of dots does not fit an integer, and no slope changes that one could see
NUDGE = 1e-6  # keeps a constant that lies between two dots from flickering with the noise of its rounding
DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)


def draw(points: Points, x_scale: Scale, y_scale: Scale, size: tuple[int, int], *, dotted: bool = False) -> Bits:
    """Return the dots of a curve, one byte a cell of `size` = (columns, rows). NaN and what has no place are gaps.

    A point between two gaps is a dot of its own. What lies outside is cut at the edges, not drawn on them.
    """
    columns, rows = size
    width, height = columns * 2, rows * 4
    grid = np.zeros((height, width), dtype=bool)
    x = x_scale.unit(points.x) * (width - 1)
    y = (1 - y_scale.unit(points.y)) * (height - 1) + NUDGE
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.clip(x, -FAR, FAR), np.clip(y, -FAR, FAR)
    xs, ys = _trace(x, y, finite, (width, height))
    if dotted:
        kept = xs % 3 == 0
        xs, ys = xs[kept], ys[kept]
    grid[ys, xs] = True
    return pack(grid)


def _trace(x: Floats, y: Floats, finite: NDArray[np.bool_], size: tuple[int, int]) -> tuple[Bits, Bits]:
    """Return the pixels of every segment between neighbouring finite points, and of the lonely points."""
    width, height = size
    joined = finite[:-1] & finite[1:] if len(x) > 1 else np.zeros(0, dtype=bool)
    start = np.flatnonzero(joined)
    x0, y0, x1, y1 = x[start], y[start], x[start + 1], y[start + 1]
    # a segment far outside would cost as many samples as it is long: keep those that touch, and clip their height
    touching = (np.maximum(x0, x1) >= -0.5) & (np.minimum(x0, x1) <= width - 0.5)
    touching &= (np.maximum(y0, y1) >= -0.5) & (np.minimum(y0, y1) <= height - 0.5)
    x0, y0, x1, y1 = _clipped(x0[touching], y0[touching], x1[touching], y1[touching], size)
    steps = np.ceil(np.maximum(np.abs(x1 - x0), np.abs(y1 - y0))).astype(np.int64) + 1
    owner = np.repeat(np.arange(len(steps)), steps)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(steps) - steps, steps)
    share = offset / np.maximum(steps - 1, 1)[owner] if len(owner) else np.zeros(0)
    xs = x0[owner] + share * (x1 - x0)[owner]
    ys = y0[owner] + share * (y1 - y0)[owner]
    alone = finite.copy()
    if len(x) > 1:
        alone[:-1] &= ~joined
        alone[1:] &= ~joined
    columns = np.rint(np.concatenate((xs, x[alone]))).astype(np.int64)
    lines = np.rint(np.concatenate((ys, y[alone]))).astype(np.int64)
    inside = (columns >= 0) & (columns < width) & (lines >= 0) & (lines < height)
    return columns[inside], lines[inside]  # type: ignore[return-value]


def _clipped(
    x0: Floats, y0: Floats, x1: Floats, y1: Floats, size: tuple[int, int]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Cut segments to the window (a little beyond it), keeping their slope (Liang and Barsky)."""
    low, high = np.zeros(len(x0)), np.ones(len(x0))
    for start, end, limit in ((x0, x1, size[0]), (y0, y1, size[1])):
        span = end - start
        moving = span != 0
        divisor = np.where(moving, span, 1.0)
        near, far = (-1.0 - start) / divisor, (limit - start) / divisor
        low = np.where(moving, np.maximum(low, np.minimum(near, far)), low)
        high = np.where(moving, np.minimum(high, np.maximum(near, far)), high)
    high = np.maximum(high, low)
    return x0 + low * (x1 - x0), y0 + low * (y1 - y0), x0 + high * (x1 - x0), y0 + high * (y1 - y0)


def pack(grid: NDArray[np.bool_]) -> Bits:
    """Return a grid of dots as one byte a cell, in braille's order of bits."""
    height, width = grid.shape
    cells = grid.reshape(height // 4, 4, width // 2, 2)
    packed: Bits = np.einsum("rdcs,ds->rc", cells.astype(np.uint8), DOT_BITS).astype(np.uint8)
    return packed


def text(bits: Bits) -> list[str]:
    """Return the rows of cells as strings; an empty cell is a space."""
    table = _table()
    return ["".join(table[value] for value in row) for row in bits.tolist()]


def _table() -> list[str]:
    return [" ", *(chr(BRAILLE + value) for value in range(1, 256))]
