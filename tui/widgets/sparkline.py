"""A curve in a few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tui.format import SPARKS

BOUND = 1e300  # the distance of two values beyond might be no number any more


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last `width` values as blocks between their lowest and highest; NaN is a gap."""
    shown = [
        value if abs(value) <= BOUND or not math.isfinite(value) else math.copysign(BOUND, value)
        for value in values[-width:]
    ]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * width
    low, high = min(finite), max(finite)
    top = len(SPARKS) - 1
    span = (high - low) or 1.0
    middle = top // 2
    text = "".join(
        " " if not math.isfinite(value) else SPARKS[middle if high == low else round((value - low) / span * top)]
        for value in shown
    )
    return text.ljust(width)
