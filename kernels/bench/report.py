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

SCHEMA = 2
"""2: rows of the official kernels that the same run measured, and ratios to them."""

OFFICIAL = "mamba_ssm"
"""The implementation of rows that measure the official kernels."""


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
    """Published, that is recorded elsewhere: see `official_source`."""
    official_graph_ms: float | None = None
    official_source: str = ""
    refused: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the published official figure; like with like, graph with graph where both exist."""
        if self.official_graph_ms is not None and self.graph is not None:
            return self.official_graph_ms / self.graph.median
        if self.official_ms is not None and self.times is not None:
            return self.official_ms / self.times.median
        return None

    def ratio_to(self, other: "BenchRow | None") -> float | None:
        """How many times faster than another row of the same run; graph with graph where both exist."""
        if other is None or other.times is None or self.times is None:
            return None
        if self.graph is not None and other.graph is not None:
            return other.graph.median / self.graph.median
        return other.times.median / self.times.median


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

    def official(self, row: BenchRow) -> BenchRow | None:
        """The row of the official kernel at the same op, shape and direction, if this run measured it."""
        where = (row.op, row.shape, row.direction, OFFICIAL)
        rows = (other for other in self.rows if (other.op, other.shape, other.direction, other.implementation) == where)
        return next((other for other in rows if other is not row), None)

    def to_json(self) -> str:
        """Every figure; infinities and NaN as null, which is all that JSON has for them."""
        content = {"schema": SCHEMA, "passed": self.passed} | _plain(asdict(self))
        for written, row in zip(content["parity"], self.parity, strict=True):
            written["passed"] = row.passed
        for written, bench in zip(content["rows"], self.rows, strict=True):
            written["ratio"] = bench.ratio
            written["ratio_measured"] = bench.ratio_to(self.official(bench))
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
            *_aligned([_HEAD, *(_cells(row, self.official(row)) for row in self.rows)]),
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
    "published",
    "measured",
    "faster than",
    "memory floor",
    "exp floor",
    "peak MB",
)


def _strain(row: ParityRow) -> float:
    return row.error / row.bound if row.passed else float("inf")


def _parity_cells(row: ParityRow) -> tuple[str, ...]:
    verdict = "ok" if row.passed else "FAILED"
    return (row.op, row.dtype, row.tensor, row.case, f"{row.error:.2e}", f"{row.bound:.2e}", verdict)


def _cells(row: BenchRow, measured: BenchRow | None) -> tuple[str, ...]:
    return (
        row.op,
        row.shape,
        row.direction,
        row.implementation,
        "refused" if row.times is None else f"{_ms(row.times.median)} ({_ms(row.times.p20)} - {_ms(row.times.p80)})",
        "" if row.graph is None else _ms(row.graph.median),
        *_official_cells(row, measured),
        "" if row.floors is None else _ms(row.floors.memory),
        "" if row.floors is None or not row.floors.exp else _ms(row.floors.exp),
        "" if row.peak_mb is None else f"{row.peak_mb:.1f}",
    )


def _official_cells(row: BenchRow, measured: BenchRow | None) -> tuple[str, str, str]:
    """The official figures that are like this row's, and the ratio: to the measured one where there is one."""
    graph = row.graph is not None
    published = row.official_graph_ms if graph and row.official_graph_ms is not None else row.official_ms
    times = None if measured is None else (measured.graph if graph and measured.graph is not None else measured.times)
    ratio, against = row.ratio_to(measured), "measured"
    if ratio is None and row.implementation != OFFICIAL:
        ratio, against = row.ratio, "published"
    return (
        "" if published is None else _ms(published),
        "" if times is None else _ms(times.median),
        "" if ratio is None else f"{ratio:.2f}x {against}",
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
