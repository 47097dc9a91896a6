"""The report: refusals, ratios, JSON and table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.bench.comparison import comparison
from kernels.bench.comparison import main as comparison_main
from kernels.bench.floors import Floors, FloorTimes
from kernels.bench.report import OFFICIAL, BenchReport, BenchRow, worst_rows
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
    assert line.split()[8:] == ["1.500", "3.00x", "published", "0.0900", "0.145", "12.5"]
    assert "FAILED" in table
    assert "refused" in table
    assert "scan 8x16 backward triton: parity failed: dA" in table


def test_what_the_same_run_measured_goes_before_what_was_published() -> None:
    theirs = replace(ROW, implementation=OFFICIAL, times=Times(1.0, 0.9, 1.1, 20, "events"), peak_mb=25.0)
    elsewhere = [replace(theirs, direction="backward"), replace(theirs, shape="9x9"), replace(theirs, op="conv")]
    measured = report([GOOD], [ROW, *elsewhere, theirs])
    assert measured.official(ROW) is theirs
    assert measured.official(theirs) is None
    rows = json.loads(measured.to_json())["rows"]
    assert [row["ratio_measured"] for row in rows] == [2.0, None, None, None, None]
    lines = measured.table().splitlines()
    own = next(line for line in lines if line.startswith("scan") and "triton" in line)
    assert own.split()[8:12] == ["1.500", "1.000", "2.00x", "measured"]
    assert "x published" not in "".join(lines)


def test_a_ratio_to_a_measured_row_compares_like_with_like() -> None:
    graph = Times(0.1, 0.1, 0.1, 30, "graph")
    theirs = replace(ROW, implementation=OFFICIAL, graph=replace_median(graph, 0.3))
    assert replace(ROW, graph=graph).ratio_to(theirs) == pytest.approx(3.0)
    assert ROW.ratio_to(theirs) == 1.0
    assert replace(ROW, times=None).ratio_to(theirs) is None
    assert ROW.ratio_to(replace(theirs, times=None)) is None


def test_the_comparison_sets_published_and_measured_beside_ours() -> None:
    theirs = replace(ROW, implementation=OFFICIAL, times=Times(1.0, 0.9, 1.1, 20, "events"), peak_mb=25.0)
    graph = Times(0.1, 0.1, 0.1, 30, "graph")
    rows = [
        replace(ROW, graph=graph),
        replace(theirs, graph=replace_median(graph, 0.3)),
        replace(ROW, direction="backward"),
        replace(ROW, shape="unknown", official_ms=None),
        replace(ROW, shape="refused", times=None, refused="parity failed"),
    ]
    text = comparison(json.loads(report([GOOD], rows).to_json()))
    lines = [line for line in text.splitlines() if line.startswith("| 8x16") or line.startswith("| refused")]
    assert lines == [
        "| 8x16 | forward | 1.50 | 1.00 / 0.3 | 0.5 / 0.1 | 3.00 | 25 | 12.5 |",
        "| 8x16 | backward | 1.50 |  | 0.5 | 3.00 (published) |  | 12.5 |",
        "| refused | forward | 1.50 |  | refused |  |  | 12.5 |",
    ]
    assert "unknown" not in text
    assert text.startswith("G, torch 2; commit abc; 2026-01-02.")
    assert "Published: theirs." in text


def test_the_comparison_of_a_written_report_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = report([GOOD], [ROW])
    written.write(tmp_path / "report.json")
    assert comparison_main([str(tmp_path / "report.json")]) == 0
    assert capsys.readouterr().out == comparison(json.loads(written.to_json()))


def replace_median(times: Times, median: float) -> Times:
    return times._replace(median=median)


def test_percentiles_by_hand() -> None:
    times = summarize([5.0, 1.0, 2.0, 3.0, 4.0, 6.0], "clock")
    assert (times.median, times.p20, times.p80, times.samples) == (3.5, 2.0, 5.0, 6)
    assert summarize([7.0], "clock") == (7.0, 7.0, 7.0, 1, "clock")


@pytest.mark.parametrize("count", [2, 3])
def test_few_samples_still_have_percentiles(count: int) -> None:
    times = summarize([float(value) for value in range(count)], "clock")
    assert times.p20 <= times.median <= times.p80
