"""The report: refusals, ratios, JSON and table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.bench.floors import Floors, FloorTimes
from kernels.bench.report import BenchReport, BenchRow, worst_rows
from kernels.bench.timing import Times, summarize
from kernels.bench.verify import ParityRow

GOOD = ParityRow("scan", "2x3", "bfloat16", "dx", 1e-3, 1e-3, 4e-3)
BAD = ParityRow("scan", "2x3", "bfloat16", "dA", float("nan"), 1e-3, 4e-3)
ROW = BenchRow(
    "scan", "8x16", "", "forward", "triton", Times(0.5, 0.4, 0.7, 20, "events"), peak_mb=12.5, floors=FloorTimes(0.09, 0.145),
    official_ms=1.5, official_source="theirs",
)  # fmt: skip


def report(parity: list[ParityRow], rows: list[BenchRow]) -> BenchReport:
    return BenchReport("2026-01-02", {"gpu": "G"}, {"torch": "2"}, "abc", "bfloat16", Floors(3e12, 4e12), parity, rows)


def test_ratio_is_how_many_times_faster_than_official() -> None:
    assert ROW.ratio == 3.0
    assert replace(ROW, times=None).ratio is None
    assert replace(ROW, official_ms=None).ratio is None


def test_graph_times_are_compared_with_graph_times() -> None:
    graph = Times(0.2, 0.2, 0.2, 30, "graph")
    assert replace(ROW, graph=graph).ratio == 3.0
    assert replace(ROW, graph=graph, official_graph_ms=0.1).ratio == 0.5


def test_a_failed_parity_fails_the_report() -> None:
    assert report([GOOD], [ROW]).passed
    assert not report([GOOD, BAD], [ROW]).passed


def test_the_worst_row_stands_for_its_op() -> None:
    close = replace(GOOD, tensor="dB", error=3.9e-3)
    assert worst_rows([GOOD, close]) == [close]
    assert worst_rows([GOOD, BAD, close]) == [BAD]


def test_json_holds_every_figure_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report([GOOD, BAD], [ROW, replace(ROW, times=None, refused="parity failed")]).write(path)
    content = json.loads(path.read_text())
    assert content["passed"] is False
    assert [row["passed"] for row in content["parity"]] == [True, False]
    assert content["parity"][1]["error"] is None
    assert content["rows"][0]["times"] == {"median": 0.5, "p20": 0.4, "p80": 0.7, "samples": 20, "method": "events"}
    assert content["rows"][0]["ratio"] == 3.0
    assert content["rows"][0]["floors"] == {"memory": 0.09, "exp": 0.145}
    assert content["rows"][1]["times"] is None
    assert content["floors"] == {"bytes_per_s": 3e12, "exps_per_s": 4e12}
    assert (content["hardware"], content["versions"], content["commit"]) == ({"gpu": "G"}, {"torch": "2"}, "abc")
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_shows_figures_and_says_why_one_is_missing() -> None:
    table = report(
        [GOOD, BAD], [ROW, replace(ROW, direction="backward", times=None, refused="parity failed: dA")]
    ).table()
    line = next(line for line in table.splitlines() if line.startswith("scan") and "forward" in line)
    assert line.split()[:8] == ["scan", "8x16", "forward", "triton", "0.500", "(0.400", "-", "0.700)"]
    assert line.split()[8:] == ["1.500", "3.00x", "0.0900", "0.145", "12.5"]
    assert "FAILED" in table
    assert "refused" in table
    assert "scan 8x16 backward triton: parity failed: dA" in table


def test_percentiles_by_hand() -> None:
    times = summarize([5.0, 1.0, 2.0, 3.0, 4.0, 6.0], "clock")
    assert (times.median, times.p20, times.p80, times.samples) == (3.5, 2.0, 5.0, 6)
    assert summarize([7.0], "clock") == (7.0, 7.0, 7.0, 1, "clock")


@pytest.mark.parametrize("count", [2, 3])
def test_few_samples_still_have_percentiles(count: int) -> None:
    times = summarize([float(value) for value in range(count)], "clock")
    assert times.p20 <= times.median <= times.p80
