"""Every format, to the letter."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from storage.export import FORMATS, grid, render_matrix
from storage.matrix import Cell, CellKey, Matrix


def cell(mean: float, std: float | None = None, n: int = 1, *, counts: dict[str, int] | None = None) -> Cell:
    values = dict.fromkeys(range(n), mean)
    return Cell(mean, std, n, values, tuple(f"run{seed}" for seed in values), counts or {"completed": n}, 1.0)


def matrix(cells: dict[CellKey, Cell], rows: tuple[str, ...] = ("model.inner",), metric: str = "valid/acc") -> Matrix:
    return Matrix(
        metric=metric,
        direction="max",
        row_axes=rows,
        column_axes=("d_state",),
        row_keys=list(dict.fromkeys(row for row, _ in cells)),
        column_keys=list(dict.fromkeys(column for _, column in cells)),
        cells=cells,
        best={max(cells, key=lambda key: (not math.isnan(cells[key].mean), cells[key].mean))},
        baseline=next(iter(cells)),
    )


PLAIN = matrix(
    {
        (("s4d",), ("8",)): cell(0.25, 0.125, 2),
        (("s4d",), ("16",)): cell(math.nan, n=0, counts={"failed": 2}),
        (("s6",), ("8",)): cell(0.75, 0.0, 2),
    }
)
ODD = matrix(
    {(("a|b_c*d",), ("50% & $1 #2",)): cell(0.5), ((r"{x}~y^2\z <w>",), ("`q`\nr [s]",)): cell(0.25)},
    rows=("model_inner",),
)


def test_markdown() -> None:
    assert render_matrix(PLAIN, "md", title="demo: valid/acc") == (
        "**demo: valid/acc**\n"
        "\n"
        "| model.inner | d\\_state = 8 | d\\_state = 16 |\n"
        "| --- | ---: | ---: |\n"
        "| s4d | 0.250 ± 0.125 (2) | failed |\n"
        "| s6 | **0.750 ± 0.000 (2)** |  |\n"
    )


def test_markdown_escapes() -> None:
    assert render_matrix(ODD, "md") == (
        "| model\\_inner | d\\_state = 50% \\& $1 #2 | d\\_state = \\`q\\` r \\[s\\] |\n"
        "| --- | ---: | ---: |\n"
        "| a\\|b\\_c\\*d | **0.500 (1)** |  |\n"
        "| {x}\\~y^2\\\\z \\<w\\> |  | 0.250 (1) |\n"
    )


def test_latex() -> None:
    assert render_matrix(PLAIN, "latex", title="Demo & more") == (
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{Demo \\& more}\n"
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "model.inner & d\\_state = 8 & d\\_state = 16 \\\\\n"
        "\\midrule\n"
        "s4d & 0.250 $\\pm$ 0.125 (2) & failed \\\\\n"
        "s6 & \\textbf{0.750 $\\pm$ 0.000 (2)} &  \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\end{table}\n"
    )


def test_latex_escapes() -> None:
    assert render_matrix(ODD, "latex") == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "model\\_inner & d\\_state = 50\\% \\& \\$1 \\#2 & d\\_state = `q` r [s] \\\\\n"
        "\\midrule\n"
        "a\\textbar{}b\\_c*d & \\textbf{0.500 (1)} &  \\\\\n"
        "\\{x\\}\\textasciitilde{}y\\textasciicircum{}2\\textbackslash{}z \\textless{}w\\textgreater{} &  & 0.250 (1) \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


CLEAR = matrix(
    {
        (("s4d",), ("8",)): cell(0.25, 0.0, 6),
        (("s6",), ("8",)): cell(0.75, 0.0, 6),
    }
)


def test_a_difference_that_chance_does_not_explain_is_marked() -> None:
    assert grid(CLEAR)[1] == [["s4d", "0.250 ± 0.000 (6)"], ["s6", "0.750 ± 0.000 (6) †"]]
    assert render_matrix(CLEAR, "md") == (
        "| model.inner | d\\_state = 8 |\n"
        "| --- | ---: |\n"
        "| s4d | 0.250 ± 0.000 (6) |\n"
        "| s6 | **0.750 ± 0.000 (6) †** |\n"
        "\n"
        "† differs from the baseline, p \\< 0.05: paired sign-flip test over common seeds, Holm-corrected\n"
    )
    latex = render_matrix(CLEAR, "latex", title="t")
    assert r"\textbf{0.750 $\pm$ 0.000 (6) $\dagger$}" in latex
    assert latex.endswith(
        "\\end{tabular}\n\n$\\dagger$ differs from the baseline, p \\textless{} 0.05: "
        "paired sign-flip test over common seeds, Holm-corrected\n\\end{table}\n"
    )
    assert [found["significance"] for found in json.loads(render_matrix(CLEAR, "json"))["cells"]] == [None, 2 / 64]
    assert "†" not in render_matrix(CLEAR, "csv")


def test_csv_is_one_line_a_cell() -> None:
    assert render_matrix(PLAIN, "csv", title="left out") == (
        "model.inner,d_state,metric,mean,std,n,best,difference\n"
        "s4d,8,valid/acc,0.25,0.125,2,0,\n"
        "s4d,16,valid/acc,,,0,0,\n"
        "s6,8,valid/acc,0.75,0.0,2,1,0.5\n"
    )


def test_csv_reads_back() -> None:
    odd = matrix({(('a,"b"\nc',), ("8",)): cell(1 / 3)})
    rows = list(csv.reader(io.StringIO(render_matrix(odd, "csv"))))
    assert rows[1] == ['a,"b"\nc', "8", "valid/acc", "0.3333333333333333", "", "1", "1", ""]


def test_json_has_every_digit() -> None:
    tree = json.loads(render_matrix(PLAIN, "json"))
    assert {key: tree[key] for key in ("metric", "direction", "rows", "columns")} == {
        "metric": "valid/acc",
        "direction": "max",
        "rows": ["model.inner"],
        "columns": ["d_state"],
    }
    assert tree["cells"][1]["mean"] is None
    assert tree["cells"][2] == {
        "labels": {"model.inner": "s6", "d_state": "8"},
        "mean": 0.75,
        "std": 0.0,
        "n": 2,
        "values": {"0": 0.75, "1": 0.75},
        "best": True,
        "baseline": False,
        "difference": 0.5,
        "significance": 0.5,
        "progress": 1.0,
        "counts": {"completed": 2},
        "nans": 0,
        "runs": ["run0", "run1"],
    }


def test_json_has_no_infinities() -> None:
    tree = json.loads(render_matrix(matrix({(("s6",), ("8",)): cell(math.inf)}), "json"))
    assert (tree["cells"][0]["mean"], tree["cells"][0]["values"]) == ("inf", {"0": "inf"})


def test_a_matrix_without_axes() -> None:
    lone = Matrix("valid/acc", "max", (), (), [()], [()], {((), ()): cell(0.5, 0.25, 3)}, {((), ())}, None)
    assert grid(lone) == (["metric", "valid/acc"], [["valid/acc", "0.500 ± 0.250 (3)"]])
    assert render_matrix(lone, "csv") == "metric,mean,std,n,best,difference\nvalid/acc,0.5,0.25,3,1,\n"


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_matrix_is_no_error(format: str) -> None:
    empty = Matrix("valid/acc", "max", ("model.inner",), ("d_state",), [], [], {}, set(), None)
    assert render_matrix(empty, format, title="t").endswith("\n")


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ValueError, match="no format 'html': expected one of md, csv, latex, json"):
        render_matrix(PLAIN, "html")
