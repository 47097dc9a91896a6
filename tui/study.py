"""An ablation in words and choices: how far it is, which metrics its matrix can show, and how its axes can lie. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from storage.rows import AblationRow, RunRow
from tui.format import bar
from tui.progress import PROBE
from tui.theme import STATUS_GLYPHS


def metrics_of(ablation: AblationRow | None, runs: Sequence[RunRow]) -> list[str]:
    """Return the metrics that a matrix can show: the deciding one, those named beside it, evaluation, the others."""
    known = {key for run in runs for key in run.metrics if not key.startswith(PROBE)}
    first = [ablation.metric, *ablation.secondary] if ablation else []
    return list(dict.fromkeys([*first, *sorted(known, key=lambda key: (not key.startswith("valid/"), key))]))


def layouts_of(axes: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Return the ways to lay out axes as (rows, columns): each of them as the columns, then all of them as rows."""
    if not axes:
        return [([], [])]
    ways = [([axis for axis in axes if axis != one], [one]) for one in reversed(axes)]
    return [*ways, (list(axes), [])]


def progress_pieces(ablation: AblationRow, metric: str, direction: str) -> list[tuple[str, str]]:
    """Return how far an ablation is, its runs by status, and the metric in view, as text with names of colours."""
    filled, rest = bar(ablation.progress, 16)
    pieces = [
        (f" {filled}", "running"),
        (rest, "faint"),
        (f" {ablation.progress:.0%} of {ablation.runs_total} runs ", ""),
    ]
    pieces += [(f" {STATUS_GLYPHS[status]}{count}", status) for status, count in ablation.counts.items()]
    better = {"max": "higher is better", "min": "lower is better"}.get(direction, "")
    return [*pieces, (f"   {metric}", "accent"), (f" {better}", "muted")]
