"""Curves: a metric of a run as arrays, read without making an object a point. Standard library only."""

from __future__ import annotations

import math
import sqlite3
from array import array
from dataclasses import dataclass

_SELECT = (
    "SELECT step, value, at FROM metric WHERE run = ? AND key = (SELECT id FROM metric_key WHERE name = ?) AND step > ?"
    " ORDER BY step"
)


_CHUNK = (
    256  # rows turned into arrays at once: all 200,000 of a curve at once take twice as long, out of the CPU's cache
)


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one metric in the order of their steps; `at` is when each was logged, in seconds since 1970."""

    steps: array[int]
    values: array[float]
    at: array[float]

    def __len__(self) -> int:
        """How many points."""
        return len(self.steps)


def read_series(connection: sqlite3.Connection, num: int, key: str, after_step: int) -> Series:
    """Return the points of run number `num` past a step; an unknown metric has none."""
    steps, values, at = array("q"), array("d"), array("d")
    cursor = connection.execute(_SELECT, (num, key, after_step))
    while rows := cursor.fetchmany(_CHUNK):
        some_steps, some_values, some_at = zip(*rows, strict=True)
        steps.extend(some_steps)
        values.extend(numbers(some_values))
        at.extend(some_at)
    return Series(steps, values, at)


def read_sample(connection: sqlite3.Connection, num: int, key: str, points: int) -> list[float]:
    """Return a metric's values at `points` places spread evenly over its steps, the last one included.

    Each is one search in the index: 16 of 200,000 points cost microseconds, where reading all costs a tenth of a second.
    """
    found = connection.execute("SELECT id FROM metric_key WHERE name = ?", (key,)).fetchone()
    last = found and connection.execute("SELECT step FROM latest WHERE run = ? AND key = ?", (num, found[0])).fetchone()
    if not last:
        return []
    query = "SELECT step, value FROM metric WHERE run = ? AND key = ? AND step <= ? ORDER BY step DESC LIMIT 1"
    rows = {}
    for place in range(1, points + 1):
        row = connection.execute(query, (num, found[0], -(-last[0] * place // points))).fetchone()
        if row is not None:
            rows[row[0]] = row[1]
    return list(numbers(tuple(rows.values())))


def numbers(values: tuple[float | None, ...]) -> array[float]:
    """Return stored values as floats: NULL is NaN."""
    try:
        return array("d", values)  # type: ignore[arg-type]  # raises TypeError at the first None, at the speed of C
    except TypeError:
        return array("d", [math.nan if value is None else value for value in values])
