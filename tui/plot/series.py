"""What happens to a curve's points before they are drawn: smoothing, decimation, and means over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Points:
    """A curve: x never falls, NaN in y is a gap."""

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class Band:
    """Mean and spread of several curves on one grid of x; std is 0 where a single curve reaches."""

    x: Floats
    mean: Floats
    std: Floats
    count: NDArray[np.int64]


@np.errstate(over="ignore", invalid="ignore")  # what has diverged so far has no place on the chart
def smooth(y: Floats, weight: float) -> Floats:
    """Return the exponential moving average, corrected for its start; NaN stays a gap and is stepped over.

    Computes m[i] = weight m[i-1] + (1 - weight) y[i], divided by 1 - weight^(i+1). Blocks whose powers stay within
    double precision are summed at once; only the blocks' ends are chained in Python.
    """
    if weight <= 0 or len(y) == 0:
        return y
    valid = np.isfinite(y)
    values = y[valid]
    if len(values) == 0:
        return y
    length = max(1, min(len(values), int(-25.0 / np.log(weight))))
    count = -(-len(values) // length)
    padded = np.zeros(count * length)
    padded[: len(values)] = values
    blocks = padded.reshape(count, length)
    powers = weight ** np.arange(1, length + 1)
    inner = np.cumsum(blocks / powers, axis=1) * powers * (1 - weight)
    carry = np.empty(count)
    last = 0.0
    for index in range(count):
        carry[index] = last
        last = last * powers[-1] + inner[index, -1]
    averaged = (inner + carry[:, None] * powers).reshape(-1)[: len(values)]
    averaged /= 1 - weight ** np.arange(1, len(values) + 1, dtype=np.float64)
    result = np.full(len(y), np.nan)
    result[valid] = averaged
    result[~valid & ~np.isnan(y)] = y[~valid & ~np.isnan(y)]
    return result


def window(points: Points, low: float, high: float) -> Points:
    """Return the points within low..high and one neighbour on each side, so that lines reach the edges."""
    first = max(0, int(np.searchsorted(points.x, low, "left")) - 1)
    last = min(len(points), int(np.searchsorted(points.x, high, "right")) + 1)
    return Points(points.x[first:last], points.y[first:last])


def decimate(points: Points, unit: Floats, columns: int) -> Points:
    """Return a curve that draws the same in so many columns, with at most about 5 points a column.

    `unit` is each point's place, 0 to 1 within the columns. Of each column the first and the last point, the lowest
    and the highest are kept, so no spike is ever hidden, and a NaN where the curve has a gap. Their order is kept.
    """
    if len(points) <= 4 * columns:
        return points
    column = np.floor(unit * columns)
    starts = np.flatnonzero(np.concatenate(([True], column[1:] != column[:-1])))
    ends = np.concatenate((starts[1:], [len(points)])) - 1
    gap = np.isnan(points.y)
    lowest = _arg_extreme(np.where(gap, np.inf, points.y), starts, ends, np.minimum)
    highest = _arg_extreme(np.where(gap, -np.inf, points.y), starts, ends, np.maximum)
    kept = [starts, ends, lowest, highest]
    if gap.any():
        kept.append(_first_gaps(gap, starts))
    order = np.unique(np.concatenate(kept))
    return Points(points.x[order], points.y[order])


def _arg_extreme(y: Floats, starts: NDArray[np.int64], ends: NDArray[np.int64], pick: np.ufunc) -> NDArray[np.int64]:
    extreme = pick.reduceat(y, starts)
    hits = np.flatnonzero(y == np.repeat(extreme, ends - starts + 1))
    column_of_hit = np.searchsorted(starts, hits, "right")
    first = np.concatenate(([True], column_of_hit[1:] != column_of_hit[:-1]))
    return hits[first]


def _first_gaps(gap: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    hits = np.flatnonzero(gap)
    column_of_hit = np.searchsorted(starts, hits, "right")
    return hits[np.concatenate(([True], column_of_hit[1:] != column_of_hit[:-1]))]


@np.errstate(over="ignore", invalid="ignore")
def band(curves: Sequence[Points]) -> Band:
    """Return mean and sample standard deviation of several curves where at least one of them is defined.

    Curves logged at the same x are averaged as they are; others are interpolated linearly between their own points and
    never beyond their ends. A NaN of one curve leaves the others' mean.
    """
    filled = [curve for curve in curves if len(curve)]
    if not filled:
        empty = np.empty(0)
        return Band(empty, empty, empty, np.empty(0, dtype=np.int64))
    grid = filled[0].x
    if any(len(curve) != len(grid) or not np.array_equal(curve.x, grid) for curve in filled[1:]):
        grid = np.unique(np.concatenate([curve.x for curve in filled]))
        rows = [np.interp(grid, curve.x, curve.y, left=np.nan, right=np.nan) for curve in filled]
    else:
        rows = [curve.y for curve in filled]
    table = np.vstack(rows)
    valid = np.isfinite(table)
    count = valid.sum(axis=0)
    total = np.where(valid, table, 0.0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(len(grid), np.nan), where=count > 0)
    squares = np.where(valid, (table - mean) ** 2, 0.0).sum(axis=0)
    std = np.sqrt(np.divide(squares, count - 1, out=np.zeros(len(grid)), where=count > 1))
    return Band(np.asarray(grid, dtype=np.float64), mean, std, count.astype(np.int64))
