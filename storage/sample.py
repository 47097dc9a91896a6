"""Fills a store with made-up ablations, quickly and the same for the same seed: for benchmarks, tests and screenshots.

It goes through the code that writes real stores, except that everything is one transaction.
"""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage import queue, submitting
from storage.engine import driver_connection, writer_engine
from storage.home import HomePaths
from storage.ids import ALPHABET, ID_LENGTH
from storage.migrate import migrate
from storage.recording import KeyTable, record_batch
from storage.records import AttemptEnd, NewRun, RecordBatch, Submitted
from storage.sample_runs import PROVENANCE, RUNS_PER_ABLATION, STEPS, single_run, study
from storage.status import AttemptStatus

NOW = 1_764_000_000.0  # when the store looks as it does: the newest ablation is at work then
METRICS = (
    "train/loss",
    "train/accuracy",
    "valid/accuracy",
    "valid/loss",
    "train/grad_norm",
    "train/lr",
    "train/steps_per_s",
    "train/tokens_per_s",
    "train/tokens_seen",
    "system/peak_memory_mb",
)
_OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
_TRACEBACK = f'Traceback (most recent call last):\n  File "trial.py", line 61, in run_trial\n    loop.run()\n{_OOM}\n'


@dataclass(frozen=True, slots=True)
class Sample:
    """What was written: ids in the order of submission."""

    ablation_ids: tuple[str, ...]
    run_ids: tuple[str, ...]


def fill_store(
    paths: HomePaths, *, runs: int, points: int = 20, keys: int = len(METRICS), seed: int = 0, now: float = NOW
) -> Sample:
    """Add `runs` runs to a store, making it first: ablations of 24 (2 layers x 4 sizes x 3 seeds), then single runs.

    Args:
        points: rows that a completed run has logged, spread over its 2000 steps.
        keys: metrics a row, the first of `METRICS`; more than there are get names of their own.
        seed: the same seed makes the same store, ids and times included.
        now: when the store looks as it does. All ablations but the newest have ended; a few of their runs failed or
            were cancelled. Of the newest, a third has completed, a run or more is at work and the rest waits.
    """
    migrate(paths)
    filler = _Filler(random.Random(seed), _names(keys), points, now)
    engine = writer_engine(paths.database)
    try:
        with engine.begin() as transaction:
            connection = driver_connection(transaction.connection)
            whole, single = divmod(runs, RUNS_PER_ABLATION)
            submitted = []
            for index in range(whole):
                age = 3600.0 * (whole - index) if index + 1 < whole else 600.0
                ablation, planned = study(index)
                done = submitting.submit(transaction, ablation, planned, PROVENANCE, now - age, filler.make_id)
                filler.live(connection, done, planned, now - age, at_work=index + 1 == whole)
                submitted.append(done)
            alone = [single_run(index) for index in range(single)]
            if alone:
                done = submitting.submit(transaction, None, alone, PROVENANCE, now - 60.0, filler.make_id)
                filler.live(connection, done, alone, now - 60.0, at_work=False)
                submitted.append(done)
    finally:
        engine.dispose()
    ablations = tuple(done.ablation_id for done in submitted if done.ablation_id is not None)
    return Sample(ablations, tuple(run_id for done in submitted for run_id in done.run_ids))


class _Filler:
    """Gives submitted runs a life."""

    def __init__(self, dice: random.Random, names: Sequence[str], points: int, now: float) -> None:
        self._dice = dice
        self._names = names
        self._points = points
        self._now = now
        self._keys = KeyTable()

    def make_id(self) -> str:
        """Return the next id."""
        return "".join(self._dice.choices(ALPHABET, k=ID_LENGTH))

    def live(
        self,
        connection: sqlite3.Connection,
        submitted: Submitted,
        runs: Sequence[NewRun],
        begun: float,
        *,
        at_work: bool,
    ) -> None:
        """Run every run of a submission: to the end, or up to now where the ablation is still at work."""
        for place, (run_id, run) in enumerate(zip(submitted.run_ids, runs, strict=True)):
            share = place / len(runs)
            if at_work and share >= 0.5:
                continue
            self._attempt(connection, run_id, run, begun + place, ends=not at_work or share < 1 / 3)
        if len(submitted.run_ids) > 1:
            self._remark(connection, submitted.run_ids[:2], begun)

    def _attempt(self, connection: sqlite3.Connection, run_id: str, run: NewRun, start: float, *, ends: bool) -> None:
        number = queue.begin(connection, run_id, "ray", start)
        assert number is not None
        luck = self._dice.random()
        status = AttemptStatus.COMPLETED
        if ends and luck < 0.05:
            status = AttemptStatus.FAILED if luck < 0.03 else AttemptStatus.CANCELLED
        whole = ends and status is AttemptStatus.COMPLETED
        rows = list(self._curve(run, start))[: self._points if whole else max(1, self._points // 2)]
        step, last = (rows[-1][1], rows[-1][0]) if rows else (0, start)
        alive = last if ends else self._now - 1.0
        notes: list[tuple[float, str, dict[str, Any]]] = [
            (start, "hardware", {"device": "cpu", "threads": 2}),
            (start, "model", {"parameters": 41_088}),
        ]
        if rows:
            notes.append((last, "checkpoint", {"step": step, "path": f"checkpoints/step-{step:06d}"}))
        batch = RecordBatch(rows, cursor=200 * len(rows) + 1, notes=notes, heartbeat_at=alive)
        record_batch(connection, self._keys, run_id, number, batch)
        if not ends:
            return
        failed = status is AttemptStatus.FAILED
        end = AttemptEnd(
            status,
            now=last + 1.0,
            reason={"completed": "steps", "failed": "oom"}.get(status.value, "cancelled"),
            error=_OOM if failed else None,
            traceback=_TRACEBACK if failed else None,
            exit_code=int(failed),
            step=step,
        )
        queue.finish(connection, run_id, number, end)

    def _curve(self, run: NewRun, start: float) -> Iterator[tuple[float, int, dict[str, float]]]:
        selective = run.spec["model"]["inner"] == "s6"
        ceiling = (0.995 if selective else 0.35) + 0.001 * run.spec["model"]["d_state"] ** 0.5
        rate = self._dice.uniform(2.0, 6.0) / STEPS
        for index in range(self._points):
            step = round(STEPS * (index + 1) / self._points)
            learnt = 1 - math.exp(-rate * step)
            noise = self._dice.uniform(-0.01, 0.01)
            accuracy = min(1.0, ceiling * learnt + noise)
            loss = 2.8 * (1 - ceiling * learnt) + abs(noise)
            values = (
                loss,
                accuracy,
                accuracy - 0.004,
                loss + 0.01,
                1.0 + 10 * noise,
                1e-3,
                50.0 + 100 * noise,
                204_800.0,
                4096.0 * step,
                412.0,
            )
            yield start + step / 50, step, dict(zip(self._names, itertools.cycle(values), strict=False))

    def _remark(self, connection: sqlite3.Connection, run_ids: Sequence[str], at: float) -> None:
        for run_id in run_ids:
            connection.execute("INSERT INTO tag (run_id, name, created_at) VALUES (?, 'baseline', ?)", (run_id, at))
        body = "Loss still falls at the end: give it more steps."
        connection.execute("INSERT INTO note (run_id, body, created_at) VALUES (?, ?, ?)", (run_ids[0], body, at))


def _names(keys: int) -> tuple[str, ...]:
    extra = (f"extra/metric_{index:02d}" for index in range(len(METRICS), keys))
    return (*METRICS[:keys], *extra)
