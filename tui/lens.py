"""What probes logged of a run's layers, as grids of layers and steps. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tui.curve_cache import Curve
from tui.plot.scale import Scale, fitted
from tui.plot.series import Floats

KEY = re.compile(r"probe/(?P<what>[a-z0-9_]+)@(?P<layer>\d+)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that is measured of a layer: its key, a title, the formula in words, its unit, and how it is scaled."""

    what: str
    title: str
    formula: str
    unit: str = ""
    log: bool = True

    @property
    def family(self) -> str:
        """The quantity without its quantile."""
        return re.sub(r"_p\d\d$", "", self.what)


def _quantiles(what: str, title: str, formula: str, unit: str = "") -> tuple[Quantity, ...]:
    order = (("p50", "median"), ("p05", "5 % quantile"), ("p95", "95 % quantile"))
    return tuple(Quantity(f"{what}_{label}", f"{title}, {word}", formula, unit) for label, word in order)


QUANTITIES: tuple[Quantity, ...] = (
    *_quantiles("half_life", "half-life", "ln 2 / (-A dt), over channels and states", "tokens"),
    *_quantiles("dt", "step dt", "softplus(dt_raw + dt_bias), over tokens and channels"),
    Quantity("state_rms", "state", "root mean square of h after the last token"),
    Quantity("gate_closed", "gate closed", "share of sigmoid(z) below 0.05", log=False),
    Quantity("gate_open", "gate open", "share of sigmoid(z) above 0.95", log=False),
)


@dataclass(frozen=True, slots=True)
class Grid:
    """Values by layer and step, (layers, steps); NaN where a layer has none. `kinds` names the layers without probes."""

    steps: Floats
    values: NDArray[np.float64]
    kinds: Mapping[int, str]

    @property
    def layers(self) -> int:
        """How many rows there are."""
        return len(self.values)

    def scale(self, *, log: bool) -> Scale:
        """Return the range of the values; of shares always 0 to 1."""
        if not log:
            return Scale(0.0, 1.0)
        finite = self.values[np.isfinite(self.values) & (self.values > 0)]
        return fitted(float(finite.min()), float(finite.max()), log=True) if len(finite) else Scale(1.0, 10.0, log=True)


def measured(curves: Mapping[str, Curve]) -> list[Quantity]:
    """Return the quantities that a run has logged."""
    found = {match["what"] for key in curves if (match := KEY.fullmatch(key))}
    return [quantity for quantity in QUANTITIES if quantity.what in found]


def grid_of(curves: Mapping[str, Curve], what: str, layers: int, kinds: Mapping[int, str]) -> Grid:
    """Return a quantity's values by layer and step."""
    rows: dict[int, Curve] = {}
    for key, curve in curves.items():
        match = KEY.fullmatch(key)
        if match and match["what"] == what and len(curve):
            rows[int(match["layer"])] = curve
    count = max(layers, max(rows, default=-1) + 1)
    steps = np.unique(np.concatenate([curve.steps for curve in rows.values()])) if rows else np.empty(0)
    values = np.full((count, len(steps)), np.nan)
    for layer, curve in rows.items():
        values[layer, np.searchsorted(steps, curve.steps)] = curve.values
    return Grid(steps, values, {layer: kinds.get(layer, "") for layer in range(count) if layer not in rows})


def columns_of(grid: Grid, width: int) -> NDArray[np.float64]:
    """Return the grid in so many columns, evenly spaced over the steps: the mean of what falls into a column, else the last."""
    count = len(grid.steps)
    if not count or width < 1:
        return np.full((grid.layers, max(0, width)), np.nan)
    span = (grid.steps[-1] - grid.steps[0]) or 1.0
    edges = grid.steps[0] + span * (np.arange(width + 1) - 0.5) / max(1, width - 1)
    first, last = np.searchsorted(grid.steps, edges[:-1]), np.searchsorted(grid.steps, edges[1:])
    held = np.clip(last - 1, 0, count - 1)
    columns = grid.values[:, held]
    for column in np.flatnonzero(last - first > 1):
        piece = grid.values[:, first[column] : last[column]]
        finite = np.isfinite(piece)
        total = np.where(finite, piece, 0.0).sum(axis=1)
        columns[:, column] = np.divide(
            total, finite.sum(axis=1), out=np.full(grid.layers, np.nan), where=finite.any(axis=1)
        )
    return columns


def index_at(grid: Grid, cursor: float) -> int:
    """Return which of the steps is nearest to a place between 0 and 1; -1 where there are none."""
    if not len(grid.steps):
        return -1
    step = grid.steps[0] + cursor * (grid.steps[-1] - grid.steps[0])
    return int(np.abs(grid.steps - step).argmin())


def siblings(quantity: Quantity, known: Sequence[Quantity]) -> list[Quantity]:
    """Return the quantities that differ in their quantile alone, in their order."""
    return [other for other in known if other.family == quantity.family]
