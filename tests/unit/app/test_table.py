"""`mambalab table`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

MEAN = "0.980 ± 0.014 (2)"


def test_text_has_means_over_seeds_of_completed_runs_alone(call: Call, lab: Lab) -> None:
    done = call("table", "demo")
    assert done.code == 0
    assert done.stdout.splitlines() == ["metric\tmodel.inner = s6\tmodel.inner = s4d", f"valid/accuracy\t{MEAN}\t50%"]
    assert "2 runs are not completed" in done.stderr
    assert "higher is better" in done.stderr


def test_axes_make_rows_where_asked(call: Call, lab: Lab) -> None:
    done = call("table", "demo", "--rows", "model.inner")
    assert done.stdout.splitlines() == ["model.inner\tvalid/accuracy", f"s6\t{MEAN}", "s4d\t50%"]


def test_markdown_and_latex_mark_the_best(call: Call, lab: Lab) -> None:
    assert f"**{MEAN}**" in call("table", "demo", "--format", "md").stdout
    latex = call("table", "demo", "--format", "latex").stdout
    assert r"\textbf{0.980 $\pm$ 0.014 (2)}" in latex
    assert r"\caption{demo: Does selection matter?}" in latex


def test_csv_and_json_have_every_digit(call: Call, lab: Lab) -> None:
    first, _ = csv.DictReader(io.StringIO(call("table", "demo", "--format", "csv").stdout))
    assert first["model.inner"] == "s6"
    assert float(first["mean"]) == pytest.approx(0.98)
    assert first["n"] == "2"
    cells = call("table", "demo", "--json").json["cells"]
    assert cells[0]["values"] == {"0": 0.99, "1": 0.97}
    assert cells[0]["best"] is True
    assert cells[1]["mean"] is None


def test_another_metric(call: Call, lab: Lab) -> None:
    done = call("table", lab.ablation, "--metric", "valid/loss")
    assert "valid/loss\t2.000 ± 0.000 (2)" in done.stdout
    assert "lower is better" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--metric", "valid/acuracy"], "Did you mean 'valid/accuracy'?"),
        (["--rows", "model.iner"], "Did you mean 'model.inner'?"),
        (["--columns", "colour"], "There are: model.inner."),
        (["--rows", "model.inner", "--columns", "model.inner"], "named twice"),
        (["--format", "html"], "expected one of text, md, csv, latex, json"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_options_are_bad_input(call: Call, lab: Lab, options: list[str], told: str) -> None:
    done = call("table", "demo", *options)
    assert done.code == 2
    assert told in done.stderr
    assert done.stdout == ""
