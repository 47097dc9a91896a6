"""From curves as stored to charts as drawn: which metrics, in which order, over which x axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from storage.rows import AttemptRow, CheckpointRow
from tui.curve_cache import Curve
from tui.plot.series import Points, band
from tui.progress import PROBE
from tui.widgets.chart_data import ChartData, Line, Shade

TOKENS = "train/tokens_seen"
SYSTEM = "system/"  # the metrics of the machine; a run shows them on a tab of their own
FIRST = ("valid/accuracy", "valid/loss", "valid/bpb", "train/loss", "train/accuracy", "train/grad_norm")
LAST = ("train/lr", "train/steps_per_s", "train/tokens_per_s", TOKENS)


def metric_order(keys: Sequence[str], deciding: str) -> list[str]:
    """Return metrics in the order of their charts: the one that decides, evaluation, training, speeds, the machine."""

    def rank(key: str) -> tuple[int, int, str]:
        if key == deciding:
            return 0, 0, key
        if key in FIRST:
            return 1, FIRST.index(key), key
        if key in LAST:
            return 5, LAST.index(key), key
        if key.startswith(SYSTEM):
            return 6, not key.startswith(f"{SYSTEM}gpu"), key
        return {"valid": 2, "train": 3}.get(key.partition("/")[0], 4), 0, key

    return sorted(keys, key=rank)


def x_kinds(curves: Mapping[str, Curve]) -> list[str]:
    """Return the x axes that a run's curves have."""
    return ["step", *(["tokens"] if TOKENS in curves else []), "time"]


def points_of(curve: Curve, kind: str, tokens: Curve | None, start: float) -> Points:
    """Return a curve over steps, tokens seen (interpolated between rows), or seconds since `start`."""
    if kind == "time":
        return Points(np.maximum.accumulate(curve.at) - start if len(curve) else curve.at, curve.values)
    if kind == "tokens" and tokens is not None and len(tokens):
        return Points(np.interp(curve.steps, tokens.steps, tokens.values), curve.values)
    return Points(curve.steps, curve.values)


def start_of(curves: Mapping[str, Curve]) -> float:
    """Return the moment of a run's first row."""
    return min((float(curve.at[0]) for curve in curves.values() if len(curve)), default=0.0)


def run_charts(
    curves: Mapping[str, Curve],
    *,
    deciding: str,
    kind: str,
    attempts: Sequence[AttemptRow] = (),
    checkpoints: Sequence[CheckpointRow] = (),
    system: bool = False,
) -> list[ChartData]:
    """Return a chart a metric of one run, checkpoints and new attempts marked; or, with `system`, of its machine."""
    start, tokens = start_of(curves), curves.get(TOKENS)
    marks = marks_of(curves, kind, attempts, checkpoints)
    charts = []
    for key in metric_order(
        [key for key in curves if key.startswith(SYSTEM) == system and not key.startswith(PROBE)], deciding
    ):
        line = Line(key, "series:0", points_of(curves[key], kind, tokens, start))
        charts.append(ChartData(key, (line,), marks=marks))
    return charts


def marks_of(
    curves: Mapping[str, Curve], kind: str, attempts: Sequence[AttemptRow], checkpoints: Sequence[CheckpointRow]
) -> tuple[tuple[float, str], ...]:
    """Return the places of checkpoints (◆) and of resumed attempts (↻) on the x axis."""
    steps = [(float(row.step), "◆") for row in checkpoints]
    steps += [(float(row.resumed_from), "↻") for row in attempts if row.resumed_from]
    if kind == "step":
        return tuple(steps)
    clock = max(curves.values(), key=len, default=None)
    tokens = curves.get(TOKENS)
    if clock is None or not len(clock):
        return ()
    start = start_of(curves)
    return tuple(
        (
            float(np.interp(step, tokens.steps, tokens.values))
            if kind == "tokens" and tokens is not None
            else float(np.interp(step, clock.steps, clock.at)) - start,
            sign,
        )
        for step, sign in steps
    )


def compared_charts(
    groups: Mapping[str, Sequence[tuple[str, Mapping[str, Curve]]]],
    *,
    deciding: str,
    kind: str,
    banded: bool,
) -> list[ChartData]:
    """Return a chart a metric over groups of runs: each run's line in its group's colour, or the group's mean and spread.

    `groups` holds (label, curves) of its runs by the group's name.
    """
    keys = {key for runs in groups.values() for _, curves in runs for key in curves if not key.startswith(PROBE)}
    charts = []
    for key in metric_order(sorted(keys), deciding):
        lines: list[Line] = []
        shades: list[Shade] = []
        for index, (name, runs) in enumerate(groups.items()):
            color = f"series:{index}"
            drawn = [
                (label, points_of(curves[key], kind, curves.get(TOKENS), start_of(curves)))
                for label, curves in runs
                if key in curves
            ]
            if banded and len(drawn) > 1:
                shades.append(Shade(name, color, band([points for _, points in drawn])))
            elif banded:
                lines += [Line(name, color, points) for _, points in drawn]
            else:
                lines += [Line(label, color, points) for label, points in drawn]
        charts.append(ChartData(key, tuple(lines), tuple(shades)))
    return charts
