"""Sample stores: the same for the same seed, and like real ones."""

from __future__ import annotations

import math
from pathlib import Path

from storage.home import HomePaths
from storage.matrix import build_matrix
from storage.queries import Reader
from storage.sample import METRICS, NOW, fill_store


def test_the_same_seed_makes_the_same_store(tmp_path: Path) -> None:
    stores = [HomePaths(tmp_path / name) for name in ("one", "two", "other")]
    samples = [
        fill_store(paths, runs=50, points=6, keys=4, seed=seed) for paths, seed in zip(stores, (3, 3, 4), strict=True)
    ]
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0].run_ids) == 50
    assert len(samples[0].ablation_ids) == 2
    with Reader(stores[0]) as one, Reader(stores[1]) as two:
        assert one.runs() == two.runs()
        assert one.events() == two.events()
        assert one.series(samples[0].run_ids[0], "train/loss") == two.series(samples[0].run_ids[0], "train/loss")


def test_a_store_has_runs_in_every_state(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    fill_store(paths, runs=1000, points=3)
    with Reader(paths) as reader:
        assert set(reader.count_runs()) == {"queued", "running", "completed", "failed", "cancelled"}
        runs = reader.runs()
        assert set(runs[-1].metrics) == set(METRICS)
        assert all(math.isfinite(value) for run in runs for value in run.metrics.values())
        assert all(run.created_at <= NOW for run in runs)
        failed = reader.runs(statuses=["failed"])[0]
        assert "OutOfMemoryError" in (reader.attempts(failed.id)[0].traceback or "")
        newest, *_, oldest = reader.ablations()
        assert set(newest.counts) >= {"queued", "running", "completed"}
        assert newest.progress < oldest.progress == 1.0
        matrix = build_matrix(oldest, reader.runs(ablation_id=oldest.id))
        assert (len(matrix.row_keys), len(matrix.column_keys), len(matrix.best)) == (2, 4, 1)
        assert matrix.baseline == (("s6",), ("16",))


def test_stores_can_be_filled_further_and_with_more_metrics(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    fill_store(paths, runs=24, points=2, seed=1)
    sample = fill_store(paths, runs=2, points=2, keys=12, seed=2)
    with Reader(paths) as reader:
        assert len(reader.runs()) == 26
        assert set(reader.metric_keys(sample.run_ids[0])) == {*METRICS, "extra/metric_10", "extra/metric_11"}


def test_an_empty_sample(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    assert fill_store(paths, runs=0).run_ids == ()
    fill_store(paths, runs=1, points=0)
    with Reader(paths) as reader:
        assert reader.runs()[0].metrics == {}
