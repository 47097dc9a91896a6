"""A matrix of hand-made runs, with numbers that can be checked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from storage.export import footnote, render_matrix
from storage.matrix import Cell, build_matrix, format_cell, mean_and_std
from storage.rows import AblationRow, RunRow

AXES = ("inner", "size")


def ablation(axes: Sequence[str] = AXES, baseline: dict[str, Any] | None = None, **changes: Any) -> AblationRow:
    fields: dict[str, Any] = {
        "num": 1,
        "id": "abl",
        "name": "demo",
        "question": "",
        "metric": "valid/accuracy",
        "direction": "max",
        "secondary": (),
        "axes": tuple(axes),
        "seeds": (0, 1),
        "created_at": 0.0,
        "archived": False,
        "note": "",
        "runs_total": 0,
        "counts": {},
        "progress": 0.0,
        "spec": {"baseline": baseline or {}},
    }
    return AblationRow(**{**fields, **changes})


def run(labels: Sequence[str], seed: int, value: float | None, *, trial: int = 0, **changes: Any) -> RunRow:
    fields: dict[str, Any] = {
        "num": 10 * trial + seed,
        "id": f"run-{trial}-{seed}",
        "ablation_id": "abl",
        "ablation": "demo",
        "name": "demo",
        "trial_index": trial,
        "trial_label": " · ".join(labels),
        "axis_labels": dict(zip(AXES, labels, strict=False)),
        "axis_values": {},
        "seed": seed,
        "status": "completed",
        "step": 100,
        "total_steps": 100,
        "attempt": 1,
        "max_attempts": 1,
        "priority": 0,
        "reason": None,
        "error": None,
        "created_at": 0.0,
        "started_at": 0.0,
        "finished_at": 1.0,
        "heartbeat_at": 1.0,
        "archived": False,
        "tags": (),
        "metrics": {} if value is None else {"valid/accuracy": value, "valid/loss": 1 - value, "odd": value},
        "spec_json": json.dumps({"inner": labels[0] if labels else "", "size": labels[-1] if labels else ""}),
    }
    return RunRow(**{**fields, **changes})


GRID = [
    run((inner, size), seed, value, trial=trial)
    for trial, (inner, size, values) in enumerate(
        [("s4d", "8", (0.2, 0.4)), ("s4d", "16", (0.3, 0.3)), ("s6", "8", (0.8, 1.0)), ("s6", "16", (0.9, 0.9))]
    )
    for seed, value in enumerate(values)
]


def test_the_last_axis_makes_the_columns() -> None:
    matrix = build_matrix(ablation(), reversed(GRID))
    assert (matrix.row_axes, matrix.column_axes) == (("inner",), ("size",))
    assert (matrix.row_keys, matrix.column_keys) == ([("s4d",), ("s6",)], [("8",), ("16",)])
    cell = matrix.cells[("s6",), ("8",)]
    assert (cell.mean, cell.n, cell.values_by_seed) == (0.9, 2, {0: 0.8, 1: 1.0})
    assert cell.std == pytest.approx(0.1 * math.sqrt(2), rel=1e-15)
    assert (cell.run_ids, cell.counts, cell.progress) == (("run-2-0", "run-2-1"), {"completed": 2}, 1.0)


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (None, None, (("inner",), ("size",))),
        (["size"], None, (("size",), ("inner",))),
        (None, ["inner"], (("size",), ("inner",))),
        ([], None, ((), ("inner", "size"))),
        (["size", "inner"], None, (("size", "inner"), ())),
        (["size"], [], (("size", "inner"), ())),
        (None, [], (("inner", "size"), ())),
    ],
)
def test_axes_go_where_they_are_sent_and_none_is_averaged_away(
    rows: list[str] | None, columns: list[str] | None, expected: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    matrix = build_matrix(ablation(), GRID, rows=rows, columns=columns)
    assert (matrix.row_axes, matrix.column_axes) == expected
    assert len(matrix.cells) == 4
    assert all(cell.n == 2 for cell in matrix.cells.values())


def test_an_ablation_without_axes_has_one_cell() -> None:
    matrix = build_matrix(ablation(axes=()), [run((), 0, 0.5), run((), 1, 0.7)])
    assert (matrix.row_keys, matrix.column_keys) == ([()], [()])
    assert matrix.cells[(), ()].mean == pytest.approx(0.6, rel=1e-15)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["depth"], None, "no axis 'depth' in this ablation: it has inner, size"),
        (["size"], ["size"], "axis 'size' is named twice"),
        (["size", "size"], None, "axis 'size' is named twice"),
    ],
)
def test_an_axis_that_cannot_be_laid_out(rows: list[str], columns: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_matrix(ablation(), GRID, rows=rows, columns=columns)


def test_the_best_cells_ties_included() -> None:
    best = {(("s6",), ("8",)), (("s6",), ("16",))}
    assert build_matrix(ablation(), GRID).best == best
    worst = build_matrix(ablation(direction="min"), GRID).best
    assert worst == {(("s4d",), ("8",)), (("s4d",), ("16",))}


@pytest.mark.parametrize(
    ("metric", "direction", "best"), [("valid/loss", "min", "s6"), ("valid/accuracy", "max", "s6"), ("odd", "", None)]
)
def test_another_metric_knows_its_direction_by_its_name(metric: str, direction: str, best: str | None) -> None:
    matrix = build_matrix(ablation(), GRID, metric=metric)
    assert (matrix.metric, matrix.direction) == (metric, direction)
    assert {row for (row,), _ in matrix.best} == ({best} if best else set())


def test_only_completed_runs_and_only_numbers_have_values() -> None:
    runs = [
        run(("s6", "8"), 0, 0.5),
        run(("s6", "8"), 1, math.nan),
        run(("s6", "8"), 2, None),
        run(("s6", "8"), 3, 0.9, status="failed", step=10),
        run(("s6", "8"), 4, 0.9, status="running", step=50),
        run(("s6", "8"), 5, None, status="queued", step=0),
    ]
    cell = build_matrix(ablation(), runs).cells[("s6",), ("8",)]
    assert (cell.n, cell.mean, cell.std, cell.values_by_seed) == (1, 0.5, None, {0: 0.5})
    assert cell.counts == {"completed": 3, "failed": 1, "running": 1, "queued": 1}
    assert cell.progress == pytest.approx(4.5 / 6, rel=1e-15)
    assert len(cell.run_ids) == 6


def test_a_cell_without_values_is_never_the_best() -> None:
    runs = [run(("s6", "8"), 0, math.nan), run(("s4d", "8"), 0, 0.1, trial=1)]
    assert build_matrix(ablation(), runs).best == {(("s4d",), ("8",))}
    assert build_matrix(ablation(), runs[:1]).best == set()
    assert build_matrix(ablation(), []).cells == {}


def test_an_infinite_value_is_a_value() -> None:
    matrix = build_matrix(ablation(), [run(("s6", "8"), 0, math.inf), run(("s6", "8"), 1, 1.0)])
    cell = matrix.cells[("s6",), ("8",)]
    assert (cell.mean, cell.std, cell.n) == (math.inf, None, 2)
    assert matrix.best == set()  # what has diverged is not better than anything


def test_runs_that_ended_at_nan_are_counted_and_said() -> None:
    """A mean over the seeds that did not diverge looks better than the trial is."""
    runs = [run(("s6", "8"), 0, 0.5), run(("s6", "8"), 1, math.nan), run(("s6", "8"), 2, None)]
    matrix = build_matrix(ablation(), runs)
    assert (matrix.cells[("s6",), ("8",)].n, matrix.cells[("s6",), ("8",)].nans) == (1, 1)
    assert footnote(matrix) == "1 completed run ended at NaN and is in no mean"
    assert "ended at NaN" in render_matrix(matrix, "md", title="")
    assert footnote(build_matrix(ablation(), runs[:1])) == ""


def test_the_difference_to_the_baseline() -> None:
    matrix = build_matrix(ablation(baseline={"inner": "s4d", "size": "16"}), GRID)
    assert matrix.baseline == (("s4d",), ("16",))
    assert matrix.difference((("s6",), ("8",))) == pytest.approx(0.6, rel=1e-15)
    assert matrix.difference((("s4d",), ("16",))) is None
    assert matrix.difference((("s6",), ("32",))) is None


def test_the_significance_of_a_difference_to_the_baseline() -> None:
    steady = [run(("s4d", "8"), seed, 0.5) for seed in range(6)]
    better = [run(("s6", "8"), seed, 0.75 + seed / 100, trial=1) for seed in range(6)]
    mixed = [run(("s4d", "16"), seed, 0.5 + (-1) ** seed / 8, trial=2) for seed in range(6)]
    lone = [run(("s6", "16"), seed, 0.9, trial=3) for seed in (5, 6)]
    baseline = {"inner": "s4d", "size": "8"}
    matrix = build_matrix(ablation(baseline=baseline), [*steady, *better, *mixed, *lone])
    assert matrix.significance((("s6",), ("8",))) == 2 * 2 / 64  # the smaller of two tests
    assert matrix.significance((("s4d",), ("16",))) == 1.0
    assert matrix.significance((("s6",), ("16",))) is None  # one common seed
    assert matrix.significance((("s4d",), ("8",))) is None  # the baseline itself
    assert matrix.significance((("s6",), ("32",))) is None
    assert not any(map(matrix.differs, matrix.cells))
    alone = build_matrix(ablation(baseline=baseline), [*steady, *better])
    assert alone.significance((("s6",), ("8",))) == 2 / 64
    assert alone.differs((("s6",), ("8",)))
    assert build_matrix(ablation(), GRID).significance((("s6",), ("8",))) is None  # no baseline


@pytest.mark.parametrize("baseline", [{}, {"inner": "s6"}, {"inner": "rnn", "size": "8"}, {"nothing": 1}])
def test_no_baseline_where_none_or_several_trials_fit(baseline: dict[str, Any]) -> None:
    matrix = build_matrix(ablation(baseline=baseline), GRID)
    assert matrix.baseline is None
    assert matrix.difference((("s6",), ("8",))) is None


def test_one_at_a_time_has_its_baseline_by_its_labels() -> None:
    runs = [
        run(("baseline", "baseline"), 0, 0.5),
        run(("s4d", "baseline"), 0, 0.25, trial=1),
        run(("baseline", "16"), 0, None, trial=2),
    ]
    matrix = build_matrix(ablation(), runs)
    assert matrix.baseline == (("baseline",), ("baseline",))
    assert matrix.difference((("s4d",), ("baseline",))) == -0.25
    assert matrix.difference((("baseline",), ("16",))) is None
    assert (("s4d",), ("16",)) not in matrix.cells


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ([], math.nan, None),
        ([2.0], 2.0, None),
        ([1.0, 3.0], 2.0, math.sqrt(2)),
        ([1e15 + 1, 1e15 + 3], 1e15 + 2, math.sqrt(2)),
        ([0.1] * 10, 0.1, 0.0),
        ([math.inf, 1.0], math.inf, None),
    ],
    ids=["none", "one", "two", "large mean", "all the same", "infinite"],
)
def test_mean_and_deviation(values: list[float], mean: float, std: float | None) -> None:
    got = mean_and_std(values)
    assert got == (mean, std) or (math.isnan(mean) and math.isnan(got[0]) and got[1] is None)


@pytest.mark.parametrize(
    ("mean", "std", "n", "text"),
    [
        (0.99349, 0.0041, 2, "0.993 ± 0.004 (2)"),
        (0.99349, None, 1, "0.993 (1)"),
        (12.3456, 1.0, 3, "12.35 ± 1.00 (3)"),
        (123.456, 1.25, 3, "123.5 ± 1.2 (3)"),
        (-12345.6, 1.0, 3, "-12346 ± 1 (3)"),
        (0.0, 0.0, 3, "0.000 ± 0.000 (3)"),
        (1.25e-4, 1e-5, 2, "1.250e-04 ± 1.0e-05 (2)"),
        (2.5e9, 1e7, 2, "2.500e+09 ± 1.0e+07 (2)"),
        (math.inf, None, 2, "inf (2)"),
    ],
)
def test_a_cell_as_text(mean: float, std: float | None, n: int, text: str) -> None:
    assert format_cell(Cell(mean, std, n, {}, (), {}, 1.0)) == text


@pytest.mark.parametrize(
    ("counts", "progress", "text"),
    [
        ({"queued": 2}, 0.0, "0%"),
        ({"running": 1, "queued": 1}, 0.429, "42%"),
        ({"running": 1}, 0.9999, "99%"),
        ({"failed": 2}, 1.0, "failed"),
        ({"cancelled": 2}, 1.0, "cancelled"),
        ({"completed": 1}, 1.0, "–"),
    ],
)
def test_a_cell_without_values_says_why(counts: dict[str, int], progress: float, text: str) -> None:
    assert format_cell(Cell(math.nan, None, 0, {}, (), counts, progress)) == text
