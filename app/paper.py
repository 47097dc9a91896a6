"""An ablation's results beside the numbers of the paper that it repeats, and whether the paper's claims hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.queries import AblationRow
    from storage.rows import RunRow
    from workers.published import Expectation, Published, Verdict


@dataclass(frozen=True, slots=True)
class Compared:
    """One trial: the paper's number in the unit of our metric (NaN: none) and ours over seeds; `n` 0 where none is done."""

    label: str
    paper: float
    mean: float
    std: float | None
    n: int

    @property
    def difference(self) -> float:
        """Ours less the paper's; NaN where one is missing."""
        return self.mean - self.paper


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table beside its paper. `also` has the same trials by the other metrics that the paper printed."""

    published: Published
    metric: str
    direction: str
    rows: list[Compared]
    also: dict[str, list[Compared]]
    verdicts: list[tuple[Expectation, Verdict]]


def published_of(ablation: AblationRow) -> Published | None:
    """Return what the ablation's file says of a paper, or None."""
    from workers.published import Published

    tree = (ablation.spec or {}).get("paper")
    # tuples became lists in the store's JSON, so the strict model reads JSON again
    return None if not tree else Published.model_validate_json(_json(tree))


def compare(ablation: AblationRow, published: Published, runs: Iterable[RunRow]) -> Comparison:
    """Compare an ablation's completed runs with the paper's numbers, trial by trial."""
    from workers.published import judge

    every = list(runs)
    metric = published.metric or ablation.metric
    rows = _beside(published, published.values, _means(ablation, published, every, metric))
    also = {
        name: _beside(published, values, _means(ablation, published, every, name))
        for name, values in published.also.items()
    }
    verdicts = []
    for expectation in published.expect:
        measured = _means(ablation, published, every, expectation.metric or metric)
        verdicts.append((expectation, judge(expectation, {label: mean for label, (mean, _, _) in measured.items()})))
    return Comparison(published, metric, ablation.direction, rows, also, verdicts)


def _beside(
    published: Published, values: Mapping[str, float], ours: Mapping[str, tuple[float, float | None, int]]
) -> list[Compared]:
    """Return each trial that either side has, ours first."""
    rows = []
    for label in dict.fromkeys([*ours, *values]):
        mean, std, n = ours.get(label, (math.nan, None, 0))
        rows.append(Compared(label, values.get(label, math.nan) * published.factor, mean, std, n))
    return rows


def print_comparison(comparison: Comparison, form: str) -> None:
    """Print trials with paper, ours, difference and ranks, then the claims, as text, Markdown (`md`) or `json`.

    Where the paper printed further metrics, a table of them comes in between.
    """
    from app.console import data, data_json, say, table
    from app.grid import Grid, Layout

    if form == "json":
        data_json(_as_json(comparison))
        return
    header, lines = _trials(comparison)
    claims = [[verdict.outcome, expectation.claim, verdict.detail] for expectation, verdict in comparison.verdicts]
    titles = ["claim", "what the paper expects", "seen"]
    unit = "" if comparison.published.comparable else "; the paper's data differ, so compare ranks"
    legend = f"{comparison.metric}: mean ± std (n) over seeds{unit}. Paper: {comparison.published.source}"
    further_header, further = _further(comparison)
    if form == "md":
        between = [*_markdown(further_header, further), ""] if further else []
        data("\n".join([*_markdown(header, lines), "", *between, *_markdown(titles, claims), "", legend]))
        return
    table(Grid(header, lines, Layout(right=header[1:], shrink=("trial",))))
    if further:
        table(Grid(further_header, further, Layout(right=further_header[1:], shrink=("paper / ours",))))
    table(Grid(titles, claims, Layout(wrap="seen")))
    say(legend)


def _trials(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the trials; the paper's number is as printed where units differ."""
    ranks = [
        _ranks([getattr(row, name) for row in comparison.rows], comparison.direction) for name in ("paper", "mean")
    ]
    differences = comparison.published.comparable
    lines = [
        [
            row.label,
            _number(row.paper if differences else row.paper / comparison.published.factor),
            _ours(row),
            *([_number(row.difference, signed=True)] if differences else []),
            f"{ranks[0][place]} / {ranks[1][place]}",
        ]
        for place, row in enumerate(comparison.rows)
    ]
    return ["trial", "paper", "ours", *(["difference"] if differences else []), "ranks"], lines


def _further(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the other metrics: a row each, a column a trial, in cells `paper / ours`."""
    labels = dict.fromkeys(row.label for rows in comparison.also.values() for row in rows)
    lines = []
    for metric, rows in comparison.also.items():
        by_label = {row.label: row for row in rows}
        cells = [by_label.get(label) for label in labels]
        lines.append([metric, *("– / –" if row is None else _pair(row) for row in cells)])
    return ["paper / ours", *labels], lines


def _pair(row: Compared) -> str:
    return f"{_number(row.paper)} / {f'{row.mean:.3f}' if row.n else '–'}"


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table's lines; a bar inside a cell is escaped, as it would end the cell."""
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *escaped)]


def _means(
    ablation: AblationRow, published: Published, runs: list[RunRow], metric: str
) -> dict[str, tuple[float, float | None, int]]:
    """Return mean, deviation and n by label; where an axis' best value counts, those of the best."""
    from storage.matrix import mean_and_std

    grouped: dict[str, dict[tuple[str, ...], list[float]]] = {}
    kept = [axis for axis in ablation.axes if axis not in published.best_over]
    for run in runs:
        label = " · ".join(run.axis_labels.get(axis, "") for axis in kept)
        rest = tuple(run.axis_labels.get(axis, "") for axis in published.best_over)
        values = grouped.setdefault(label, {}).setdefault(rest, [])
        value = run.metrics.get(metric, math.nan)
        if run.status == "completed" and not math.isnan(value):
            values.append(value)
    means: dict[str, tuple[float, float | None, int]] = {}
    sign = -1 if ablation.direction == "min" else 1
    for label, groups in grouped.items():
        done = [(*mean_and_std(values), len(values)) for values in groups.values() if values]
        means[label] = max(done, key=lambda found: sign * found[0], default=(math.nan, None, 0))
    return means


def _ranks(values: list[float], direction: str) -> list[str]:
    """Return each value's place, the best first; ties share one, and what is missing has `–`."""
    sign = -1 if direction == "min" else 1
    known = [sign * value for value in values if not math.isnan(value)]
    return ["–" if math.isnan(value) else str(1 + sum(other > sign * value for other in known)) for value in values]


def _ours(row: Compared) -> str:
    from storage.matrix import format_mean

    return f"{format_mean(row.mean, row.std)} ({row.n})" if row.n else "–"


def _number(value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.3f}" if signed else f"{value:.4g}"


def _as_json(comparison: Comparison) -> dict[str, Any]:
    from dataclasses import asdict

    def plain(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}

    return {
        "source": comparison.published.source,
        "metric": comparison.metric,
        "comparable": comparison.published.comparable,
        "trials": [plain({**asdict(row), "difference": row.difference}) for row in comparison.rows],
        "also": {
            metric: [plain({**asdict(row), "difference": row.difference}) for row in rows]
            for metric, rows in comparison.also.items()
        },
        "claims": [
            {"claim": expectation.claim, "outcome": verdict.outcome, "seen": verdict.detail}
            for expectation, verdict in comparison.verdicts
        ],
    }


def _json(tree: Any) -> str:
    import json

    return json.dumps(tree)
