"""A paper's numbers in the matrix: the same as `mambalab table --check` compares with, and how a cell shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from app.paper import compare, published_of
from app.presets import find_ablation
from storage.home import HomePaths
from storage.matrix import build_matrix
from storage.queries import Reader
from tests.unit.tui.test_matrix import MatrixApp, key, made
from tui.quoted import Quoted, quoted
from workers.ablation import load_ablation, plan_runs
from workers.jobs.submission import SubmitOptions, submit_ablation


@pytest.mark.parametrize("name", ["paper/table-1", "paper/table-7", "paper/table-11"])
def test_cells_have_the_numbers_that_the_command_line_compares_with(name: str, tmp_path: Path) -> None:
    path = find_ablation(name)
    spec = load_ablation(path)
    paths = HomePaths(tmp_path / "lab")
    submit_ablation(paths, spec, plan_runs(spec, str(path)), SubmitOptions("mambalab submit", "ray", None))
    with Reader(paths) as reader:
        ablation = reader.ablations()[0]
        runs = reader.runs(ablation_id=ablation.id)
    published = published_of(ablation)
    assert published is not None
    comparison = compare(ablation, published, runs)
    expected = {row.label: row.paper for row in comparison.rows if not math.isnan(row.paper)}
    metric = published.metric or ablation.metric
    found = quoted(ablation, build_matrix(ablation, runs, metric=metric))
    assert expected
    assert (found.source, found.comparable) == (published.source, published.comparable)
    assert sorted(set(found.values.values())) == sorted(set(expected.values()))
    for cell, value in found.values.items():
        labels = (*cell[0], *cell[1])
        assert any(value == number and all(part in labels for part in label.split(" · "))
                   for label, number in expected.items())  # fmt: skip
    assert quoted(ablation, build_matrix(ablation, runs, metric="train/loss")).values == {}


async def test_a_cell_shows_the_papers_number_and_ours_less_it() -> None:
    app = MatrixApp()
    async with app.run_test(size=(80, 24)) as pilot:
        matrix = made(2)
        values = {key("s4d"): 0.5, key("s6"): 0.1}
        app.view.show(matrix, Quoted("A paper", values))
        await pilot.pause()
        lines = [[app.view.render_line(2 + 4 * row + line).text.strip() for line in range(4)] for row in range(3)]
        assert app.view.row_height == 4
        assert lines[0][1:] == ["baseline", "paper 0.500 -0.249", ""]
        assert lines[1][2] == "paper 0.100 +0.650"
        assert lines[2][2:] == ["", ""]
        other = replace(Quoted("A paper", values), comparable=False, factor=0.01)
        app.view.show(matrix, other)
        await pilot.pause()
        assert app.view.render_line(4).text.strip() == "paper 50.00"
        app.view.show(matrix)
        assert app.view.row_height == 3
