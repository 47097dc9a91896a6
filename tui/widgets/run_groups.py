"""What the head of a group of runs says: how many, in which states, and the mean of the metric that decides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from storage.matrix import format_mean, mean_and_std
from storage.rows import RunRow
from tui.theme import STATUS_GLYPHS, Palette
from tui.widgets.column import Piece

METRICS_SHOWN = 2  # runs of several tasks decide by different metrics


def summarise(runs: Sequence[RunRow], metric_of: Callable[[RunRow], str]) -> tuple[Counter[str], dict[str, str]]:
    """Return the runs by status, and `mean ± std (n)` over the completed ones by the metric that decides them."""
    values: dict[str, list[float]] = {}
    for run in runs:
        if run.status == "completed":
            key = metric_of(run)
            value = run.metrics.get(key, math.nan)
            if not math.isnan(value):
                values.setdefault(key, []).append(value)
    means = {key: f"{format_mean(*mean_and_std(found))} ({len(found)})" for key, found in sorted(values.items())}
    return Counter(run.status for run in runs), means


def head_pieces(title: str, counts: Counter[str], means: dict[str, str], palette: Palette) -> list[Piece]:
    """Return the head of a group."""
    runs = "run" if counts.total() == 1 else "runs"
    pieces: list[Piece] = [(f" {title} ", palette.accent), (f" {counts.total()} {runs} ", palette.muted)]
    pieces += [(f" {glyph}{counts[status]}", palette.statuses[status])
               for status, glyph in STATUS_GLYPHS.items() if counts[status]]  # fmt: skip
    for key, text in list(means.items())[:METRICS_SHOWN]:
        pieces += [(f"  {key} ", palette.muted), (text, "")]
    if len(means) > METRICS_SHOWN:
        pieces.append((f"  and {len(means) - METRICS_SHOWN} other metrics", palette.muted))
    return pieces
