"""The views say in SQL what Python's own statistics say."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.home import HomePaths
from storage.matrix import mean_and_std
from storage.repository import AttemptEnd, Repository
from storage.status import AttemptStatus
from tests.unit.storage.lab import PROVENANCE, begin, execute, new_ablation, new_run, piece, rows_of


def run_all(repository: Repository, values: list[float], status: AttemptStatus = AttemptStatus.COMPLETED) -> None:
    """Submit an ablation of one trial with a seed for each value of the metric, and end its runs."""
    runs = [new_run(seed, trial_label="s6") for seed in range(len(values))]
    done = repository.submit(ablation=new_ablation(), runs=runs, provenance=PROVENANCE)
    for run_id, value in zip(done.run_ids, values, strict=True):
        begin(repository, run_id)
        repository.record(run_id, 1, piece(1, (100, {"valid/accuracy": value})))
        repository.finish_attempt(run_id, 1, AttemptEnd(status, now=1100.0, step=100))


@pytest.mark.parametrize(
    "values",
    [[0.5], [0.5, 0.25], [0.1, 0.2, 0.7, 0.2], [1e9 + 0.001, 1e9 + 0.002, 1e9 + 0.004], [-3.0, 3.0]],
    ids=["one", "two", "four", "large mean", "mean of zero"],
)
def test_the_ablations_statistics(repository: Repository, paths: HomePaths, values: list[float]) -> None:
    run_all(repository, values)
    ((mean, variance, n, low, high),) = rows_of(paths, "SELECT mean, variance, n, minimum, maximum FROM v_ablation")
    # AVG sums in plain floating point: a rounding error of a part in 1e16 for each value
    assert mean == pytest.approx(statistics.mean(values), rel=1e-15 * len(values), abs=1e-15)
    assert (n, low, high) == (len(values), min(values), max(values))
    if n == 1:
        assert variance is None
    else:
        spread = max(values) - min(values)
        # a value at 1e9 is known to 1e-7: the deviations keep what digits there are
        assert variance == pytest.approx(statistics.variance(values), rel=1e-12, abs=spread * math.ulp(max(values)) * 4)


def test_only_completed_runs_and_only_numbers_count(repository: Repository, paths: HomePaths) -> None:
    run_all(repository, [1.0, math.nan, 3.0])
    run_all(repository, [50.0], AttemptStatus.FAILED)
    assert rows_of(paths, "SELECT mean, n FROM v_ablation") == [(2.0, 2)]


def test_metrics_and_latest_by_name(repository: Repository, paths: HomePaths) -> None:
    run_all(repository, [0.5])
    assert rows_of(paths, "SELECT key, step, value, at, attempt FROM v_metrics") == [
        ("valid/accuracy", 100, 0.5, "1970-01-01 00:18:20", 1)
    ]
    assert rows_of(paths, "SELECT trial, seed, status, key, step, value FROM v_latest") == [
        ("s6", 0, "completed", "valid/accuracy", 100, 0.5)
    ]


def test_runs_as_people_read_them(repository: Repository, paths: HomePaths) -> None:
    run_all(repository, [0.5])
    execute(paths, "UPDATE run SET step = 33")
    query = "SELECT ablation, trial, status, step, total_steps, percent, duration_s, git_sha, started FROM v_runs"
    assert rows_of(paths, query) == [("demo", "s6", "completed", 33, 100, 33.0, 100.0, "abc", "1970-01-01 00:16:40")]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
@settings(deadline=None)
def test_mean_and_deviation_are_the_samples(values: list[float]) -> None:
    mean, std = mean_and_std(values)
    assert std is not None
    # statistics works in exact fractions; ours rounds each deviation once
    assert mean == pytest.approx(statistics.mean(values), rel=1e-12, abs=1e-9)
    assert std == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)
