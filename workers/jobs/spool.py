"""The spool: an append-only file of JSON lines in which a worker reports, and whose byte offset is the cursor.

One line is one object with a kind and the time it was made, in seconds since 1970:

    {"kind": "metrics", "at": 1.5, "step": 10, "values": {"train/loss": 0.25}}
    {"kind": "note", "at": 1.5, "name": "hardware", "payload": {...}}
    {"kind": "heartbeat", "at": 1.5}

JSON has neither NaN nor infinities: among `values` they are the strings "nan", "inf" and "-inf". A line counts once its
newline is there; a torn last line (a full disk, a kill in the middle of a write) is never delivered.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHUNK_BYTES = 4 * 2**20  # read at once: bounds memory and a transaction's length
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True, slots=True)
class MetricLine:
    """Named scalars of one step; `at` is seconds since 1970."""

    at: float
    step: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class NoteLine:
    """One fact for the record."""

    at: float
    name: str
    payload: dict[str, Any]


@dataclass(slots=True)
class Batch:
    """What a piece of a spool says.

    Attributes:
        metrics, notes: in the order of the file.
        last_at: time of the newest line, whatever its kind; None for no line.
        damaged: lines that could not be read, cut to 200 characters.
    """

    metrics: list[MetricLine] = field(default_factory=list)
    notes: list[NoteLine] = field(default_factory=list)
    last_at: float | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int | None:
        """The highest step of any metrics line."""
        return max((line.step for line in self.metrics), default=None)


def metrics_line(at: float, step: int, values: Mapping[str, float]) -> bytes:
    """Encode one row of metrics. Raises TypeError for a value that is no number."""
    try:
        return _line({"kind": "metrics", "at": at, "step": step, "values": values})
    except ValueError:
        encoded = {name: value if math.isfinite(value) else _name(value) for name, value in values.items()}
        return _line({"kind": "metrics", "at": at, "step": step, "values": encoded})


def note_line(at: float, name: str, payload: Mapping[str, Any]) -> bytes:
    """Encode one fact; non-finite numbers in it become their names. Raises TypeError for what JSON cannot hold."""
    try:
        return _line({"kind": "note", "at": at, "name": name, "payload": payload})
    except ValueError:
        return _line({"kind": "note", "at": at, "name": name, "payload": _named(payload)})


def heartbeat_line(at: float) -> bytes:
    """Encode a sign of life."""
    return _line({"kind": "heartbeat", "at": at})


def parse(data: bytes) -> Batch:
    """Decode whole lines. A line that cannot be read is kept in `damaged`: the rest is still worth having."""
    batch = Batch()
    for raw in data.splitlines():
        try:
            _take(json.loads(raw), batch)
        except (ValueError, KeyError, TypeError, AttributeError):
            batch.damaged.append(raw[:200].decode(errors="replace"))
    return batch


def read_from(path: Path, cursor: int, limit: int = CHUNK_BYTES) -> tuple[bytes, int]:
    """Return whole lines from a byte offset, about `limit` bytes of them, and the offset after them.

    A file that is not there yet has no lines. A single line longer than `limit` is still returned whole.
    """
    try:
        with path.open("rb") as file:
            file.seek(cursor)
            data = file.read(limit)
            end = data.rfind(b"\n") + 1
            if not end and len(data) == limit:
                data += file.readline()
                end = len(data) if data.endswith(b"\n") else 0
    except FileNotFoundError:
        return b"", cursor
    return data[:end], cursor + end


def is_being_written(path: Path) -> bool:
    """Say whether a living process has a spool open for writing: it holds a lock on it (`SpoolSink`)."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _take(tree: dict[str, Any], batch: Batch) -> None:
    at = float(tree["at"])
    kind = tree["kind"]
    if kind == "metrics":
        values = {name: _number(value) for name, value in tree["values"].items()}
        batch.metrics.append(MetricLine(at, int(tree["step"]), values))
    elif kind == "note":
        batch.notes.append(NoteLine(at, str(tree["name"]), dict(tree["payload"])))
    elif kind != "heartbeat":
        raise ValueError(f"unknown kind {kind!r}")
    batch.last_at = at if batch.last_at is None else max(at, batch.last_at)


def _number(value: float | str) -> float:
    return _NON_FINITE[value] if isinstance(value, str) else float(value)


def _line(tree: Mapping[str, Any]) -> bytes:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _name(value: float) -> str:
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _name(value)
    if isinstance(value, Mapping):
        return {str(key): _named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    return value
