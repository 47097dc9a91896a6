"""The benchmark's result: its rows, the JSON file and the table."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernels.bench.floors import Floors, FloorTimes
from kernels.bench.timing import Times
from kernels.bench.verify import ParityRow

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One op, shape, direction and implementation."""

    op: str
    shape: str
    note: str
    direction: str
    """forward or backward."""
    implementation: str
    times: Times | None
    """None where no speed is given; `refused` says why."""
    graph: Times | None = None
    peak_mb: float | None = None
    """Held at most by a forward and its backward, beyond the inputs."""
    floors: FloorTimes | None = None
    official_ms: float | None = None
    """Recorded elsewhere, see `official_source`."""
    official_graph_ms: float | None = None
    official_source: str = ""
    refused: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the recorded official figure; like with like, graph with graph where both exist."""
        if self.official_graph_ms is not None and self.graph is not None:
            return self.official_graph_ms / self.graph.median
        if self.official_ms is not None and self.times is not None:
            return self.official_ms / self.times.median
        return None


@dataclass(slots=True)
class BenchReport:
    """Everything one benchmark measured, and on what."""

    created_at: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str
    dtype: str
    floors: Floors
    parity: list[ParityRow] = field(default_factory=list)
    rows: list[BenchRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no op was refused for its parity."""
        return all(row.passed for row in self.parity)

    def to_json(self) -> str:
        """Every figure; infinities and NaN as null, which is all that JSON has for them."""
        content = {"schema": SCHEMA, "passed": self.passed} | _plain(asdict(self))
        for written, row in zip(content["parity"], self.parity, strict=True):
            written["passed"] = row.passed
        for written, bench in zip(content["rows"], self.rows, strict=True):
            written["ratio"] = bench.ratio
            for name in ("times", "graph", "floors"):
                value = getattr(bench, name)
                written[name] = None if value is None else _plain(value._asdict())
        content["floors"] = self.floors._asdict()
        return json.dumps(content, indent=1, allow_nan=False)

    def write(self, path: Path) -> None:
        """Write the JSON aside and rename it, so that a reader never sees half of it."""
        aside = path.with_name(path.name + ".part")
        aside.write_text(self.to_json() + "\n")
        os.replace(aside, path)  # noqa: PTH105

    def table(self) -> str:
        """The report for people: where it ran, what parity found, then a row per measurement."""
        where = ", ".join(f"{key} {value}" for key, value in (self.hardware | self.versions).items())
        lines = [
            f"kernels on {where}; commit {self.commit}; {self.dtype}",
            f"floors measured here: {self.floors.bytes_per_s / 1e9:.4g} GB/s copied, {self.floors.exps_per_s / 1e9:.4g} G exp/s",
            *self.notes,
            "",
            *_aligned([_PARITY_HEAD, *(_parity_cells(row) for row in worst_rows(self.parity))]),
            "",
            *_aligned([_HEAD, *(_cells(row) for row in self.rows)]),
        ]
        refused = [
            f"{row.op} {row.shape} {row.direction} {row.implementation}: {row.refused}"
            for row in self.rows
            if row.refused
        ]
        return "\n".join(lines + (["", "no speed for:", *refused] if refused else []))


def worst_rows(rows: Sequence[ParityRow]) -> list[ParityRow]:
    """One row for each op and dtype: the one that fails or comes closest to its bound."""
    worst: dict[tuple[str, str], ParityRow] = {}
    for row in rows:
        key = (row.op, row.dtype)
        if key not in worst or _strain(row) > _strain(worst[key]):
            worst[key] = row
    return list(worst.values())


_PARITY_HEAD = ("parity: op", "dtype", "worst tensor", "case", "error", "bound", "")
_HEAD = (
    "op",
    "shape",
    "direction",
    "implementation",
    "ms (p20 - p80)",
    "graph ms",
    "official",
    "faster",
    "memory floor",
    "exp floor",
    "peak MB",
)


def _strain(row: ParityRow) -> float:
    return row.error / row.bound if row.passed else float("inf")


def _parity_cells(row: ParityRow) -> tuple[str, ...]:
    verdict = "ok" if row.passed else "FAILED"
    return (row.op, row.dtype, row.tensor, row.case, f"{row.error:.2e}", f"{row.bound:.2e}", verdict)


def _cells(row: BenchRow) -> tuple[str, ...]:
    official = row.official_ms
    if row.official_graph_ms is not None and row.graph is not None:
        official = row.official_graph_ms
    return (
        row.op,
        row.shape,
        row.direction,
        row.implementation,
        "refused" if row.times is None else f"{_ms(row.times.median)} ({_ms(row.times.p20)} - {_ms(row.times.p80)})",
        "" if row.graph is None else _ms(row.graph.median),
        "" if official is None else _ms(official),
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        "" if row.floors is None else _ms(row.floors.memory),
        "" if row.floors is None or not row.floors.exp else _ms(row.floors.exp),
        "" if row.peak_mb is None else f"{row.peak_mb:.1f}",
    )


def _ms(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return None
    return value
