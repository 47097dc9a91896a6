"""A report as the table that documents show: the official kernels, published and measured, beside ours.

`python -m kernels.bench.comparison kernels/bench/results/FILE.json` prints it for a report that was written before.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.bench.report import OFFICIAL

Row = Mapping[str, Any]

_NOTE = (
    "Milliseconds, median; {dtype}. A second figure after a stroke is per call inside a CUDA graph, without launches and "
    "with warm caches. The ratio is official to ours, of graph times where both have one: to the official kernel measured "
    "in the same run, or to the published figure where it says so. Peak memory of a forward and its backward in MB."
)


def comparison(report: Mapping[str, Any]) -> str:
    """Return Markdown from a report's JSON: one table for each op that has official figures, a row for each direction."""
    parts = [_heading(report), *report["notes"], _NOTE.format(dtype=report["dtype"])]
    for op in dict.fromkeys(row["op"] for row in report["rows"]):
        lines = [line for row in _ours(report, op) if (line := _line(row, _measured(report, row)))]
        if lines:
            head = "| shape | direction | official, published | official, measured | ours | ratio | MB, official | MB, ours |"
            parts.append("\n".join([f"`{op}`", "", head, "| --- " * 8 + "|", *lines]))
    sources = sorted({row["official_source"] for row in report["rows"] if row["official_source"]})
    parts += [f"Published: {source}." for source in sources]
    return "\n\n".join(parts) + "\n"


def _heading(report: Mapping[str, Any]) -> str:
    facts = [str(value) for name, value in report["hardware"].items() if name in ("gpu", "cpu")]
    facts += [f"{name} {version}" for name, version in report["versions"].items()]
    return f"{', '.join(facts)}; commit {report['commit']}; {report['created_at'][:10]}."


def _ours(report: Mapping[str, Any], op: str) -> list[Row]:
    return [row for row in report["rows"] if row["op"] == op and row["implementation"] == "triton"]


def _measured(report: Mapping[str, Any], row: Row) -> Row | None:
    where = (row["op"], row["shape"], row["direction"], OFFICIAL)
    rows = (
        other
        for other in report["rows"]
        if (other["op"], other["shape"], other["direction"], other["implementation"]) == where
    )
    return next(rows, None)


def _line(row: Row, measured: Row | None) -> str:
    """One line of the table; empty where nothing official is known of the row."""
    if measured is None and row["official_ms"] is None:
        return ""
    cells = [
        f"{row['shape']}{' (' + row['note'] + ')' if row['note'] else ''}",
        row["direction"],
        _pair(row["official_ms"], row["official_graph_ms"]),
        "" if measured is None else _timed(measured),
        _timed(row),
        _ratio(row),
        "" if measured is None else _megabytes(measured),
        _megabytes(row),
    ]
    return f"| {' | '.join(cells)} |"


def _timed(row: Row) -> str:
    """A row's own times, or that it has none."""
    if row["times"] is None:
        return "refused"
    return _pair(row["times"]["median"], row["graph"] and row["graph"]["median"])


def _ratio(row: Row) -> str:
    if row.get("ratio_measured") is not None:  # reports of schema 1 have none
        return f"{row['ratio_measured']:.2f}"
    return "" if row["ratio"] is None else f"{row['ratio']:.2f} (published)"


def _megabytes(row: Row) -> str:
    return "" if row["peak_mb"] is None else f"{row['peak_mb']:.4g}"


def _pair(first: float | None, second: float | None) -> str:
    return " / ".join(_ms(value) for value in (first, second) if value is not None)


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 1 else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: the table of a report on stdout."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.comparison", description=__doc__)
    parser.add_argument("report", type=Path, help="a JSON report that `kernels.bench.run --out` has written")
    options = parser.parse_args(arguments)
    sys.stdout.write(comparison(json.loads(options.report.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
