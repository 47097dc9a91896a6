"""Measures the store on this machine: ingest, lists, curves. Speeds are numbers to read, never something a test asserts."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.home import HomePaths
from storage.matrix import build_matrix
from storage.queries import Reader
from storage.repository import NewProvenance, NewRun, RecordBatch, Repository
from storage.sample import fill_store
from storage.sql import run_query

SIZES = (1_000, 10_000)  # runs in a store
REPEATS = 7
SCALARS = 10  # a row
INGEST_ROWS = 20_000
WRITERS = 32
CURVE_POINTS = 200_000


def measure_store(folder: Path) -> dict[str, Any]:
    """Write sample stores below `folder`, measure them, and remove them again.

    Times are medians in milliseconds, `_cpu` ones of the process's own time, which a busy machine inflates less. Rates
    are values a second, ten scalars a row.
    """
    results: dict[str, Any] = {}
    for runs in SIZES:
        with _Store(folder / f"runs-{runs}") as paths:
            started = time.perf_counter()
            fill_store(paths, runs=runs, points=2)
            results[f"fill_{runs}_ms"] = _ms(time.perf_counter() - started)
            results |= {f"{name}_{runs}": value for name, value in _measure_lists(paths).items()}
    with _Store(folder / "ingest") as paths:
        results |= _measure_ingest(paths)
    with _Store(folder / "curve") as paths:
        results |= _measure_curve(paths)
    return results


class _Store:
    """A store that is gone at the end."""

    def __init__(self, root: Path) -> None:
        self._paths = HomePaths(root)

    def __enter__(self) -> HomePaths:
        return self._paths

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._paths.root, ignore_errors=True)


def _measure_lists(paths: HomePaths) -> dict[str, float]:
    with Reader(paths) as reader:
        study = reader.ablations()[0]
        some_run = reader.runs(limit=1)[0].id
    results = _timed("runs_first", lambda: _read(paths, lambda reader: reader.runs()))
    results |= _timed("runs_50", lambda: _read(paths, lambda reader: reader.runs(limit=50)))
    results |= _timed("query", lambda: run_query(paths, "SELECT * FROM v_ablation LIMIT 50"))
    with Reader(paths) as reader:
        reader.runs()
        results |= _timed("runs_again", reader.runs)
        results |= _timed("ablations", reader.ablations)
        results |= _timed("resolve", lambda: reader.resolve(some_run[:6]))
        results |= _timed("matrix", lambda: build_matrix(study, reader.runs(ablation_id=study.id)))
    return results


def _measure_ingest(paths: HomePaths) -> dict[str, float]:
    """Measure pieces of 100 rows of one attempt, and of 10 rows of each of 32 attempts in one transaction."""
    dice = random.Random(0)
    names = [f"train/metric_{index}" for index in range(SCALARS)]
    rows = [(float(step), step, {name: dice.random() for name in names}) for step in range(1, INGEST_ROWS + 1)]
    many = range(0, INGEST_ROWS // WRITERS, 10)
    with Repository(paths) as repository:
        alone, *together = _begin(repository, 1 + WRITERS)

        def in_pieces() -> None:
            for first in range(0, INGEST_ROWS, 100):
                repository.record(alone, 1, RecordBatch(rows[first : first + 100], cursor=first + 1))

        def side_by_side() -> None:
            for first in many:
                piece = RecordBatch(rows[first : first + 10], cursor=first + 1)
                repository.record_many([(run_id, 1, piece) for run_id in together])

        return {
            **_rate("ingest_pieces_of_100", in_pieces, INGEST_ROWS * SCALARS),
            **_rate(f"ingest_{WRITERS}_attempts", side_by_side, len(many) * 10 * WRITERS * SCALARS),
        }


def _measure_curve(paths: HomePaths) -> dict[str, float]:
    with Repository(paths) as repository:
        (run_id,) = _begin(repository, 1)
        rows = [(float(step), step, {"train/loss": 1 / step}) for step in range(1, CURVE_POINTS + 1)]
        repository.record(run_id, 1, RecordBatch(rows, cursor=1))
    with Reader(paths) as reader:
        return _timed(f"series_{CURVE_POINTS}", lambda: reader.series(run_id, "train/loss"))


def _begin(repository: Repository, count: int) -> tuple[str, ...]:
    runs = [NewRun(f"run-{index}", {}, "", total_steps=INGEST_ROWS) for index in range(count)]
    provenance = NewProvenance("bench", "", "", "")
    ids = repository.submit(ablation=None, runs=runs, provenance=provenance).run_ids
    for run_id in ids:
        repository.begin_attempt(run_id, executor="bench", now=0.0)
    return ids


def _read(paths: HomePaths, read: Callable[[Reader], object]) -> None:
    """Read with a new connection, as a command does."""
    with Reader(paths) as reader:
        read(reader)


def _timed(name: str, work: Callable[[], object]) -> dict[str, float]:
    wall, cpu = [], []
    for _ in range(REPEATS):
        started, started_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return {f"{name}_ms": _ms(statistics.median(wall)), f"{name}_cpu_ms": _ms(statistics.median(cpu))}


def _rate(name: str, work: Callable[[], object], values: int) -> dict[str, float]:
    started, started_cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return {f"{name}_values_per_s": round(values / wall), f"{name}_values_per_cpu_s": round(values / cpu)}


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)
