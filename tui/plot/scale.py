"""Axes: where a value falls, and which ticks are nice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tui.format import count_label, duration, number
from tui.plot.series import Floats

ROUNDING = 1e-9  # a range that is smaller than so much of its values is a constant and the noise of its rounding
BOUND = 1e300  # no axis reaches farther: the differences and ratios of its ends would be no numbers any more
FARTHEST_DECADE = 305.0
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of one axis. On a logarithmic one, what is not positive has no place."""

    low: float
    high: float
    log: bool = False

    def unit(self, values: Floats) -> Floats:
        """Return the places of values, 0 at low and 1 at high; NaN where there is none."""
        if not self.log:
            span = self.high - self.low
            with np.errstate(over="ignore"):
                return (values - self.low) / (span if span > 0 else 1.0)
        low, high = math.log10(self.low), math.log10(self.high)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(values > 0, np.log10(np.where(values > 0, values, 1.0)), np.nan)
        return np.asarray((logs - low) / (high - low if high > low else 1.0))

    def value(self, unit: float) -> float:
        """Return the value at a place; the inverse of `unit`."""
        if not self.log:
            return self.low + unit * (self.high - self.low)
        low, high = math.log10(self.low), math.log10(self.high)
        return float(10 ** min(FARTHEST_DECADE, max(-FARTHEST_DECADE, low + unit * (high - low))))

    def zoomed(self, factor: float, center: float = 0.5) -> Scale:
        """Return the scale that shows `1/factor` of this one around a place."""
        half = 0.5 / factor
        middle = center + (0.5 - center) / factor
        return Scale(self.value(middle - half), self.value(middle + half), self.log)

    def moved(self, share: float) -> Scale:
        """Return the scale moved by a share of its width."""
        return Scale(self.value(share), self.value(1 + share), self.log)


def fitted(low: float, high: float, *, log: bool, margin: float = 0.0) -> Scale:
    """Return a scale around low..high. Raises nothing: an empty or reversed range becomes one that can be drawn."""
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        low, high = (1.0, 10.0) if log else (0.0, 1.0)
    low, high = max(-BOUND, min(BOUND, low)), max(-BOUND, min(BOUND, high))
    if log:
        low = max(low, 1 / BOUND)
        high = max(high, low)
        if high / low < 1 + ROUNDING:
            low, high = low / 1.5, high * 1.5
        pad = min((high / low) ** margin, 1e4)
        return Scale(low / pad, high * pad, log=True)
    if high - low <= max(ROUNDING * max(abs(high), abs(low)), 1 / BOUND):
        pad = abs(high) * 0.1 or 1.0
        return Scale(low - pad, high + pad)
    pad = (high - low) * margin
    return Scale(low - pad, high + pad)


def ticks(scale: Scale, at_most: int) -> list[float]:
    """Return at most so many round values within the scale, in order."""
    at_most = max(1, at_most)
    if scale.log:
        decades = _log_ticks(scale, at_most)
        if len(decades) >= 2:
            return decades
    return _linear_ticks(scale.low, scale.high, at_most)


def _linear_ticks(low: float, high: float, at_most: int) -> list[float]:
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / at_most))
    for factor in (*STEPS, 20.0, 50.0, 100.0):
        step = factor * power
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        if last - first + 1 <= at_most:
            return [index * step for index in range(first, last + 1)] or [low]
    return [low]


def _log_ticks(scale: Scale, at_most: int) -> list[float]:
    first = math.ceil(math.log10(scale.low) - 1e-9)
    last = math.floor(math.log10(scale.high) + 1e-9)
    every = max(1, -(-(last - first + 1) // at_most))
    powers = [10.0**exponent for exponent in range(first, last + 1) if exponent % every == 0]
    if len(powers) * 3 <= at_most:
        finer = [mantissa * 10.0**exponent for exponent in range(first - 1, last + 1) for mantissa in (1, 2, 5)]
        return [value for value in finer if scale.low * 0.999 <= value <= scale.high * 1.001]
    return powers


def time_ticks(scale: Scale, at_most: int) -> list[float]:
    """Return round durations within the scale, in seconds."""
    if scale.log:
        return ticks(scale, at_most)
    for step in TIME_STEPS:
        first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
        if last - first + 1 <= max(1, at_most):
            return [float(index * step) for index in range(first, last + 1)]
    return _linear_ticks(scale.low, scale.high, at_most)


def time_label(value: float) -> str:
    """Return a duration for an axis."""
    return duration(value) if value >= 1 or value == 0 else f"{value:.2g}s"


def value_labels(values: list[float], *, log: bool = False) -> list[str]:
    """Return labels with as many decimals as tell the ticks apart; on a logarithmic axis each with its own."""
    if not values:
        return []
    if log:
        return [count_label(value) if value >= 1e3 else f"{value:.9g}" if value >= 1e-4 else number(value, 3)
                for value in values]  # fmt: skip
    biggest = max(abs(value) for value in values)
    if biggest >= 1e4:
        return [count_label(value) for value in values]
    if 0 < biggest < 1e-3:
        return [number(value, 3) if value else "0" for value in values]
    gap = min((b - a for a, b in pairwise(values)), default=biggest or 1.0)
    decimals = max(0, min(6, -math.floor(math.log10(gap) + 1e-9) if gap > 0 else 0))
    if any(abs(round(value, decimals) - value) > gap * 0.05 for value in values):
        decimals += 1
    return [f"{value:.{decimals}f}" for value in values]
