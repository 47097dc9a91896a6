"""Numbers, durations and widths in few characters."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from storage.encoding import visible
from tui.cells import cells, fit, fitting, without_folders
from tui.format import bar, bytes_size, count_label, duration, number, parse_duration, plain
from tui.widgets.sparkline import sparkline
from tui.widgets.text_view import wrapped


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (0.0, "0"), (0.99347, "0.9935"), (12.0, "12"), (123.456, "123.5"), (1e-5, "1e-5"),
        (0.001, "0.001000"), (2.5e7, "2.5e7"), (math.nan, "NaN"), (math.inf, "inf"), (-math.inf, "-inf"), (-0.5, "-0.5000"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (61, "1m01"), (3660, "1h01"), (90_000, "1d1h"), (None, ""), (math.nan, "")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("2h", 7200), ("1d12h", 129_600), ("1.5m", 90), ("h", None), ("2x", None), ("", None), ("2h!", None)],
)
def test_parsed_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (950, "950"), (1500, "1.5k"), (204_800, "204.8k"), (3.2e6, "3.2M"), (1e300, "1e300")]
)
def test_counts(value: float, text: str) -> None:
    assert count_label(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 40))
def test_a_bar_is_as_wide_as_asked(share: float, width: int) -> None:
    assert len("".join(bar(share, width))) == width


@given(st.text(alphabet="abc µ漢字🙂·", max_size=20), st.integers(0, 20), st.sampled_from(["left", "right"]))
def test_fitted_text_takes_exactly_its_cells(text: str, width: int, align: str) -> None:
    assert cell_len(fit(text, width, align)) == width


def test_a_spark_is_scaled_to_its_own_range_and_leaves_gaps() -> None:
    assert sparkline([0.0, 1.0, math.nan, 0.5], 6) == "▁█ ▅  "
    assert sparkline([], 3) == "   "
    assert sparkline([2.0, 2.0], 2) == "▄▄"
    assert sparkline(list(range(100)), 4) == "▁▃▆█"


def test_values_are_written_as_one_types_them() -> None:
    assert [plain(value) for value in (True, None, 1e-3, [1, 2], "s6")] == ["true", "none", "0.001", "1, 2", "s6"]
    assert [bytes_size(value) for value in (None, 512, 2048, 3 * 2**30)] == ["", "512 B", "2.0 KiB", "3.0 GiB"]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("paper/table-11.small", 12, "table-11.small"),
        ("paper/table-1.small", 19, "paper/table-1.small"),
        ("表/日本語", 6, "日本語"),
        ("induction-heads", 12, "induction-heads"),
    ],
)
def test_a_name_that_does_not_fit_loses_its_folders_first(text: str, width: int, shown: str) -> None:
    assert without_folders(text, width) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ± 漢", "plain ± 漢"), ("a\x1b[31mred\x07", "a�[31mred�"), ("two\nlines\tand more", "two lines and more")],
)
def test_what_a_terminal_would_obey_is_not_sent_to_it(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert fit(text, 30).rstrip() == shown


@given(st.text(alphabet="ab 漢é", max_size=60), st.integers(4, 20))
def test_wrapped_lines_are_as_wide_as_the_terminal_shows_them(text: str, width: int) -> None:
    rows = ["".join(piece for piece, _ in row) for row in wrapped([(text, "")], width)]
    assert all(cells(row) <= width for row in rows)
    assert "".join(rows).replace(" ", "") == text.replace(" ", "")
    assert cells(text[: fitting(text, width)]) <= width


def test_a_curve_of_blocks_bears_any_values() -> None:
    assert sparkline([-1.7e308, 0.0, 1.7e308], 3) == "▁▅█"
