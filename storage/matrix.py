"""An ablation's result as a matrix of cells, mean ± sample standard deviation over seeds. Pure, standard library only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from storage.rows import AblationRow, RunRow, flatten
from storage.significance import LEVEL, holm, paired_p
from storage.status import by_status

Key = tuple[str, ...]
CellKey = tuple[Key, Key]

# which way is better where an ablation does not say: by the last part of a metric's name
_DIRECTIONS = {"accuracy": "max", "loss": "min", "bpb": "min", "perplexity": "min", "error": "min"}
_TIE = 1e-12  # means of equal values in another order differ by rounding, which decides nothing


@dataclass(frozen=True, slots=True)
class Cell:
    """The runs of one trial.

    Attributes:
        mean: of the completed runs' latest values; NaN for n = 0.
        std: the sample's (n - 1); None for fewer than two values, or where the mean is infinite.
        n: how many values; a completed run without the metric, or whose value is not a number, has none.
        values_by_seed: the values, by seed.
        run_ids: every run of the trial, whatever its status.
        counts: runs by status.
        progress: mean of the runs' progress, 0 to 1.
        nans: completed runs that logged the metric and whose latest value is not a number, as where they diverged.
    """

    mean: float
    std: float | None
    n: int
    values_by_seed: dict[int, float]
    run_ids: tuple[str, ...]
    counts: dict[str, int]
    progress: float
    nans: int = 0


@dataclass(frozen=True)  # no slots: the p values are kept once somebody has asked for one
class Matrix:
    """Cells by (row key, column key); a key holds a label for each of its axes.

    Attributes:
        direction: `max` or `min`; empty where nothing says which is better, and then no cell is the best.
        row_keys, column_keys: in the order of the trials.
        cells: combinations that no run has are absent.
        best: the cells with the best mean, all of them where they tie; an infinite one is none.
        baseline: the cell of the trial that changes nothing, where exactly one does.
        adjusted_p: of the cells that share two seeds or more with the baseline: how likely a difference as large is by
            chance, by a paired sign-flip test over the common seeds, Holm-corrected over these cells. With n seeds the
            test itself cannot go below 2 / 2^n, and the correction multiplies: three seeds never show a difference, and
            six do for a single cell (p = 0.03).
    """

    metric: str
    direction: str
    row_axes: tuple[str, ...]
    column_axes: tuple[str, ...]
    row_keys: list[Key]
    column_keys: list[Key]
    cells: dict[CellKey, Cell]
    best: set[CellKey] = field(default_factory=set)
    baseline: CellKey | None = None

    def difference(self, key: CellKey) -> float | None:
        """Return the cell's mean less the baseline's; None for the baseline itself, or where either has no value."""
        if self.baseline is None or key == self.baseline or key not in self.cells:
            return None
        difference = self.cells[key].mean - self.cells[self.baseline].mean
        return None if math.isnan(difference) else difference

    @cached_property
    def adjusted_p(self) -> dict[CellKey, float]:
        """See the class."""
        if self.baseline is None or self.baseline not in self.cells:
            return {}
        beside = self.cells[self.baseline].values_by_seed
        asked = {key: paired_p(cell.values_by_seed, beside) for key, cell in self.cells.items() if key != self.baseline}
        return holm({key: p for key, p in asked.items() if p is not None})

    def significance(self, key: CellKey) -> float | None:
        """Return the cell's adjusted p against the baseline; None where fewer than two seeds are common to both."""
        return self.adjusted_p.get(key)

    def differs(self, key: CellKey) -> bool:
        """Tell whether the cell's difference to the baseline is more than chance explains, at the usual 5%."""
        p = self.significance(key)
        return p is not None and p < LEVEL


def build_matrix(
    ablation: AblationRow,
    runs: Iterable[RunRow],
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Matrix:
    """Lay out an ablation's runs by their axes.

    By default the last axis makes the columns and the others the rows. Where `rows` or `columns` is named, the axes that
    neither names join the other one, or the rows where both are named: trials are never averaged into one another.

    Raises:
        ValueError: an axis that the ablation does not have, or one that is named twice.
    """
    row_axes, column_axes = _layout(ablation.axes, rows, columns)
    shown = metric or ablation.metric
    ordered = sorted(runs, key=lambda run: (run.trial_index, run.seed, run.num))
    grouped: dict[CellKey, list[RunRow]] = {}
    for run in ordered:
        key = _key(run, row_axes), _key(run, column_axes)
        grouped.setdefault(key, []).append(run)
    cells = {key: _cell(group, shown) for key, group in grouped.items()}
    direction = ablation.direction if shown == ablation.metric else _DIRECTIONS.get(shown.rpartition("/")[2], "")
    return Matrix(
        metric=shown,
        direction=direction,
        row_axes=row_axes,
        column_axes=column_axes,
        row_keys=list(dict.fromkeys(row for row, _ in grouped)),
        column_keys=list(dict.fromkeys(column for _, column in grouped)),
        cells=cells,
        best=_best(cells, direction),
        baseline=_baseline(ablation, grouped),
    )


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1), in two passes so that digits survive a large mean.

    The mean of nothing is NaN; the deviation is None for fewer than two values and for infinite ones.
    """
    if not values:
        return math.nan, None
    if not all(map(math.isfinite, values)):
        return sum(values) / len(values), None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def format_cell(cell: Cell) -> str:
    """Return `0.993 ± 0.004 (2)`: mean, deviation and n. A cell without values says how far it is, or how it ended."""
    if not cell.n:
        return _without_values(cell)
    return f"{format_mean(cell.mean, cell.std)} ({cell.n})"


def format_mean(mean: float, std: float | None) -> str:
    """Return mean ± deviation to the same place: four digits of the mean, at least three of them decimals below 10."""
    size = abs(mean)
    if not math.isfinite(mean):
        shown, spread = f"{mean}", ""
    elif size and not 1e-3 <= size < 1e6:
        shown, spread = f"{mean:.3e}", "" if std is None else f" ± {std:.1e}"
    else:
        decimals = max(0, 3 - max(0, math.floor(math.log10(size)))) if size else 3
        shown, spread = f"{mean:.{decimals}f}", "" if std is None else f" ± {std:.{decimals}f}"
    return shown + spread


def _without_values(cell: Cell) -> str:
    if cell.progress < 1:
        return f"{math.floor(100 * cell.progress)}%"
    for status in ("failed", "cancelled"):
        if cell.counts.get(status):
            return status
    return "–"


def _layout(
    axes: Sequence[str], rows: Sequence[str] | None, columns: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    named = [*(rows or ()), *(columns or ())]
    for axis in named:
        if axis not in axes:
            raise ValueError(f"no axis {axis!r} in this ablation: it has {', '.join(axes) or 'none'}")
        if named.count(axis) > 1:
            raise ValueError(f"axis {axis!r} is named twice: an axis makes either rows or columns")
    if rows is None and columns is None:
        return tuple(axes[:-1]), tuple(axes[-1:])
    rest = [axis for axis in axes if axis not in named]
    if columns is None:
        return tuple(rows or ()), tuple(rest)
    return (*(rows or ()), *rest), tuple(columns)


def _key(run: RunRow, axes: Sequence[str]) -> Key:
    return tuple(run.axis_labels.get(axis, "") for axis in axes)


def _cell(runs: Sequence[RunRow], metric: str) -> Cell:
    values = {
        run.seed: run.metrics[metric]
        for run in runs
        if run.status == "completed" and not math.isnan(run.metrics.get(metric, math.nan))
    }
    mean, std = mean_and_std(list(values.values()))
    return Cell(
        mean=mean,
        std=std,
        n=len(values),
        values_by_seed=values,
        run_ids=tuple(run.id for run in runs),
        counts=by_status(Counter(run.status for run in runs)),
        progress=sum(run.progress for run in runs) / len(runs),
        nans=sum(run.status == "completed" and math.isnan(run.metrics.get(metric, 0.0)) for run in runs),
    )


def _best(cells: dict[CellKey, Cell], direction: str) -> set[CellKey]:
    means = {key: cell.mean for key, cell in cells.items() if math.isfinite(cell.mean)}
    if not means or direction not in ("max", "min"):
        return set()
    best = max(means.values()) if direction == "max" else min(means.values())
    return {key for key, mean in means.items() if math.isclose(mean, best, rel_tol=_TIE)}


def _baseline(ablation: AblationRow, grouped: dict[CellKey, list[RunRow]]) -> CellKey | None:
    """Return the one cell whose runs agree with every key that the ablation's baseline names."""
    plain = [key for key in grouped if ablation.axes and all(label == "baseline" for part in key for label in part)]
    if plain:
        return plain[0]
    baseline = flatten(ablation.spec.get("baseline") or {})
    if not baseline:
        return None
    fitting = [key for key, runs in grouped.items() if _agrees(runs[0], baseline)]
    return fitting[0] if len(fitting) == 1 else None


def _agrees(run: RunRow, baseline: dict[str, object]) -> bool:
    return all(key in run.config and run.config[key] == value for key, value in baseline.items())
