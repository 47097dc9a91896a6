"""Curves as read from the store, kept and only ever read on from where they end."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from textual.message import Message

from storage.errors import NotFound
from storage.queries import Reader
from storage.rows import RunRow
from storage.series import Series
from tui.messages import CurvesRead, SparksRead

SPARK_POINTS = 16
SPARK_EVERY_S = 2.0
BUDGET_S = 0.1  # small curves beside the lists are read for so long at a time: the lists come first
PROGRESS_S = 0.4
KEPT_POINTS = 20_000_000  # of runs that are no longer on a screen


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one run: steps, values (NaN where it was none) and moments, as arrays of one length."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    at: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def extended(self, series: Series) -> Curve:
        """Return the curve with what was read from its last step on: that one's value may have been replaced."""
        if not len(series):
            return self
        tail = curve_of(series)
        if not len(self):
            return tail
        kept = int(np.searchsorted(self.steps, tail.steps[0]))
        if kept == len(self) - 1 and len(tail) == 1 and tail.at[0] == self.at[kept]:
            return self
        return Curve(
            np.concatenate((self.steps[:kept], tail.steps)),
            np.concatenate((self.values[:kept], tail.values)),
            np.concatenate((self.at[:kept], tail.at)),
        )


def curve_of(series: Series) -> Curve:
    """Return a series as numpy arrays; values and moments share the series' memory."""
    steps = np.frombuffer(series.steps, dtype=np.int64).astype(np.float64) if len(series) else np.empty(0)
    values = np.frombuffer(series.values, dtype=np.float64) if len(series) else np.empty(0)
    at = np.frombuffer(series.at, dtype=np.float64) if len(series) else np.empty(0)
    return Curve(steps, values, at)


EMPTY = Curve(np.empty(0), np.empty(0), np.empty(0))


class CurveReader:
    """Answers what a screen draws. A run's curves are read from the start once, and again when it got a new attempt."""

    def __init__(self, post: Callable[[Message], object], stopped: Callable[[], bool]) -> None:
        self._post = post
        self._stopped = stopped
        self._curves: OrderedDict[str, dict[str, Curve]] = OrderedDict()
        self._seen: dict[str, RunRow | None] = {}
        self._sparks: dict[tuple[str, str], tuple[RunRow | None, float, tuple[float, ...]]] = {}
        self._asked: tuple[str, ...] = ()
        self._asked_sparks: tuple[tuple[str, str], ...] = ()
        self._posted = 0.0
        self.behind = False
        """Whether small curves are left that the time did not suffice for."""

    def read(
        self,
        reader: Reader,
        curves: Sequence[str],
        sparks: Sequence[tuple[str, str]],
        rows: Mapping[str, RunRow],
        *,
        again: bool = False,
    ) -> None:
        """Read what is new of these runs and post it, run by run where there are many; `again` also where nothing is."""
        asked = tuple(curves)
        changed = self._read_curves(reader, asked, rows)
        if asked and (changed or again or asked != self._asked):
            self._post(CurvesRead({run: dict(self._curves.get(run, {})) for run in asked}, complete=True))
        self._asked = asked
        small = tuple(sparks)
        changed = self._read_sparks(reader, small, rows)
        if small and (changed or again or small != self._asked_sparks):
            self._post(SparksRead({pair[0]: self._sparks[pair][2] for pair in small if pair in self._sparks}))
        self._asked_sparks = small

    def _read_curves(self, reader: Reader, asked: Sequence[str], rows: Mapping[str, RunRow]) -> bool:
        changed = False
        self._posted = time.monotonic()
        for run_id in asked:
            if self._stopped():
                break
            row = rows.get(run_id)
            before = self._seen.get(run_id)
            if run_id in self._curves and row is before:  # the list keeps a row's object until the row changes
                self._curves.move_to_end(run_id)
                continue
            if row is not None and before is not None and row.attempt != before.attempt:
                self._curves.pop(run_id, None)  # the new attempt may have gone back to a checkpoint and say otherwise
            changed = self._read_run(reader, run_id, asked) or changed
            self._seen[run_id] = row
        self._forget(set(asked))
        return changed

    def _read_run(self, reader: Reader, run_id: str, asked: Sequence[str]) -> bool:
        known = self._curves.setdefault(run_id, {})
        changed = False
        try:
            keys = reader.metric_keys(run_id)
            for key in keys:
                known.setdefault(key, EMPTY)  # all charts have their place before the first of them is read
            for key in keys:
                before = known[key]
                last = int(before.steps[-1]) if len(before) else 0
                known[key] = after = before.extended(reader.series(run_id, key, after_step=last - 1))
                changed = changed or after is not before
                self._post_progress(asked)
        except NotFound:
            self._curves.pop(run_id, None)
        return changed

    def _post_progress(self, asked: Sequence[str]) -> None:
        """Post what is there where a long read has gone on for a while."""
        if time.monotonic() - self._posted > PROGRESS_S:
            self._posted = time.monotonic()
            self._post(CurvesRead({run: dict(self._curves.get(run, {})) for run in asked}, complete=False))

    def _forget(self, kept: set[str]) -> None:
        total = sum(len(curve) for run in self._curves.values() for curve in run.values())
        for run_id in list(self._curves):
            if total <= KEPT_POINTS:
                return
            if run_id not in kept:
                total -= sum(len(curve) for curve in self._curves.pop(run_id).values())
                self._seen.pop(run_id, None)

    def _read_sparks(self, reader: Reader, sparks: Sequence[tuple[str, str]], rows: Mapping[str, RunRow]) -> bool:
        began, changed, self.behind = time.monotonic(), False, False
        for run_id, key in sparks:
            row = rows.get(run_id)
            before, at, _ = self._sparks.get((run_id, key), (None, 0.0, ()))
            now = time.monotonic()
            if row is None or row is before or not key:
                continue
            if before is not None and row.status == "running" and now - at < SPARK_EVERY_S:
                continue
            if now - began > BUDGET_S:
                self.behind = True
                break
            try:
                values = reader.sample(run_id, key, SPARK_POINTS)
            except NotFound:
                continue
            self._sparks[run_id, key] = (row, now, tuple(values))
            changed = True
        return changed
