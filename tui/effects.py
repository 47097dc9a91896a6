"""The main effect of each axis: what a value does on average over all the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from storage.matrix import format_mean, mean_and_std
from storage.rows import AblationRow, RunRow
from tui.format import bar
from tui.widgets.text_view import TextLine


@dataclass(frozen=True, slots=True)
class Effect:
    """One value of an axis: mean and deviation over the completed runs that have it."""

    axis: str
    label: str
    mean: float
    std: float | None
    n: int


def main_effects(ablation: AblationRow, runs: Sequence[RunRow], metric: str) -> list[Effect]:
    """Return an effect a value of each axis, in the order of the trials."""
    effects = []
    for axis in ablation.axes:
        grouped: dict[str, list[float]] = {}
        for run in sorted(runs, key=lambda run: run.trial_index):
            values = grouped.setdefault(run.axis_labels.get(axis, ""), [])
            value = run.metrics.get(metric, math.nan)
            if run.status == "completed" and not math.isnan(value):
                values.append(value)
        for label, values in grouped.items():
            effects.append(Effect(axis, label, *mean_and_std(values), len(values)))
    return effects


def effect_lines(effects: Sequence[Effect], direction: str) -> list[TextLine]:
    """Return the effects as bars between the lowest and the highest mean, the best value of an axis marked."""
    means = [effect.mean for effect in effects if math.isfinite(effect.mean)]
    if not means:
        return [[("no run has completed yet", "muted")]]
    low, high = min(means), max(means)
    lines: list[TextLine] = []
    for axis in dict.fromkeys(effect.axis for effect in effects):
        of_axis = [effect for effect in effects if effect.axis == axis]
        finite = [effect.mean for effect in of_axis if math.isfinite(effect.mean)]
        best = (max(finite) if direction == "max" else min(finite)) if finite and direction else None
        spread = max(finite) - min(finite) if finite else 0.0
        lines.append([(axis, "accent"), (f"   range {format_mean(spread, None)}", "muted")])
        for effect in of_axis:
            share = (effect.mean - low) / (high - low) if high > low and math.isfinite(effect.mean) else 0.0
            chosen = "best" if effect.mean == best else ""
            filled, rest = bar(share, 20)
            lines.append([(f"  {effect.label:<16.16} ", chosen), (filled, "running"), (rest, "faint"),
                          (f" {format_mean(effect.mean, effect.std)} ({effect.n})", chosen)])  # fmt: skip
    return lines
