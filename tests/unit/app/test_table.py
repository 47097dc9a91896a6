"""`mambalab table`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from storage.home import HomePaths
from storage.records import AttemptEnd, NewAblation, NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
from storage.status import AttemptStatus

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

MEAN = "0.980 ± 0.014 (2)"
PROVENANCE = NewProvenance(command="mambalab submit clear", directory="/", hostname="box", python="3.11.7")


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


def test_what_chance_does_not_explain_is_marked_and_explained(call: Call, home: HomePaths) -> None:
    axis = "model.inner"
    runs = [
        NewRun(
            name="clear",
            spec={"model": {"inner": inner}, "seed": seed},
            spec_hash=f"{inner}-{seed}",
            trial_index=index,
            trial_label=inner,
            axis_values={axis: inner},
            axis_labels={axis: inner},
            seed=seed,
            total_steps=1,
        )
        for index, inner in enumerate(("s4d", "s6"))
        for seed in range(6)
    ]
    study = NewAblation(
        name="clear",
        question="",
        spec={"name": "clear", "baseline": {"model": {"inner": "s4d"}}},
        metric="valid/accuracy",
        direction="max",
        secondary=(),
        axes=(axis,),
        seeds=tuple(range(6)),
    )
    with Repository(home) as store:
        for place, run_id in enumerate(store.submit(ablation=study, runs=runs, provenance=PROVENANCE).run_ids):
            _complete(store, run_id, 0.25 if place < 6 else 0.75)
    done = call("table", "clear")
    assert done.stdout.splitlines()[1] == "valid/accuracy\t0.250 ± 0.000 (6)\t0.750 ± 0.000 (6) †"
    assert "† differs from the baseline, p < 0.05" in done.stderr
    assert [cell["significance"] for cell in call("table", "clear", "--json").json["cells"]] == [None, 2 / 64]


def _complete(store: Repository, run_id: str, accuracy: float) -> None:
    number = store.begin_attempt(run_id, executor="inline", now=1.0)
    assert number is not None
    store.record(run_id, number, RecordBatch(rows=[(2.0, 1, {"valid/accuracy": accuracy})], cursor=1))
    assert store.finish_attempt(run_id, number, AttemptEnd(AttemptStatus.COMPLETED, 3.0, reason="steps", step=1))
