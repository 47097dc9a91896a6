"""Tables that fit a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.grid import BEST, Grid, Layout

COLUMNS = ["id", "trial", "status", "step", "question"]
ROW = [
    "k3j9x2m4q1",
    "a trial with quite a long label",
    "failed",
    "120/500",
    "Does selection matter where spacing is random?",
]
LAYOUT = Layout(right=["step"], drop=["question"], shrink=["trial", "question"])


def test_everything_is_shown_where_there_is_room() -> None:
    header, rule, row = Grid(COLUMNS, [ROW], LAYOUT).render(200, colours=False).splitlines()
    assert header.split() == COLUMNS
    assert set(rule) == {"─", " "}
    assert all(cell in row for cell in ROW)


def test_what_may_be_cut_is_cut_and_the_rest_stays_whole() -> None:
    _, _, row = Grid(COLUMNS, [ROW], LAYOUT).render(80, colours=False).splitlines()
    assert len(row) <= 80
    assert row.startswith("k3j9x2m4q1  ")
    assert "failed" in row
    assert "120/500" in row
    assert row.count("…") >= 1


def test_columns_are_dropped_before_others_become_unreadable() -> None:
    header, *_ = Grid(COLUMNS, [ROW], LAYOUT).render(50, colours=False).splitlines()
    assert header.split() == COLUMNS[:-1]


def test_the_last_column_may_take_several_lines() -> None:
    text = Grid(COLUMNS, [ROW], Layout(wrap="question")).render(90, colours=False)
    _, _, *lines = text.splitlines()
    assert len(lines) > 1
    assert lines[1].startswith(" " * 20)
    assert " ".join(line[62:].strip() for line in lines).split() == ROW[-1].split()


def test_colours_do_not_move_anything() -> None:
    grid = Grid(COLUMNS, [ROW], LAYOUT, {(0, 3): BEST})
    plain, coloured = grid.render(90, colours=False), grid.render(90, colours=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert "\x1b[1;31mfailed\x1b[0m" in coloured
    assert "\x1b[1;32m120/500\x1b[0m" in coloured


@pytest.mark.parametrize("rows", [[], [["", "", "", "", ""]]])
def test_nothing_is_no_matter(rows: list[list[str]]) -> None:
    assert Grid(COLUMNS, rows, LAYOUT).render(80, colours=True)


@given(
    cells=st.lists(st.lists(st.text(st.characters(codec="ascii"), max_size=40), min_size=3, max_size=3), max_size=5),
    width=st.integers(min_value=46, max_value=200),
)
def test_no_line_is_wider_than_the_terminal(cells: list[list[str]], width: int) -> None:
    """With every column soft, 3 x 12 characters and the gaps always fit."""
    grid = Grid(["a", "b", "c"], cells, Layout(shrink=["a", "b"], wrap="c"))
    assert all(len(line) <= width for line in grid.render(width, colours=False).splitlines())


def test_wide_letters_take_two_cells_and_stay_in_line() -> None:
    rows = [["漢字漢字", "1"], ["plain", "2"], ["e\u0301te\u0301", "3"]]
    lines = Grid(["name", "n"], rows).render(80, colours=False).splitlines()
    assert lines[2:] == ["漢字漢字  1", "plain     2", "e\u0301te\u0301       3"]
    cut = Grid(["name", "n"], [["漢字" * 20, "1"]], Layout(shrink=["name"])).render(20, colours=False)
    assert cut.splitlines()[2] == "漢字漢字漢字漢字…  1"


def test_what_a_terminal_would_obey_is_shown_as_a_mark() -> None:
    row = Grid(["name"], [["a\x1b[31mred\x07"]]).render(80, colours=False).splitlines()[2]
    assert row == "a\ufffd[31mred\ufffd"
