"""Curves before and after they are dots: smoothing, decimation, means, axes, rasters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tui.plot.raster import draw, text
from tui.plot.scale import Scale, fitted, ticks, time_ticks, value_labels
from tui.plot.series import Points, band, decimate, smooth, window
from tui.theme import DARK
from tui.widgets.chart import render, x_scale
from tui.widgets.chart_axes import x_cells
from tui.widgets.chart_data import ChartData, Line, View

VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan))
CURVES = st.integers(1, 400).flatmap(lambda size: arrays(np.float64, size, elements=VALUES))


@given(CURVES, st.integers(2, 40))
def test_decimation_keeps_each_columns_extremes_ends_and_gaps(y: np.ndarray, columns: int) -> None:
    points = Points(np.arange(len(y), dtype=np.float64), y)
    high = float(len(y))
    kept = decimate(points, points.x / high, columns)
    assert len(kept) <= 5 * columns
    before, after = (np.floor(some.x / high * columns) for some in (points, kept))
    for column in np.unique(before):
        was, now = points.y[before == column], kept.y[after == column]
        finite = was[np.isfinite(was)]
        if len(finite):
            assert finite.min() == np.nanmin(now)
            assert finite.max() == np.nanmax(now)
        assert np.isnan(was).any() == np.isnan(now).any()
        np.testing.assert_equal((was[0], was[-1]), (now[0], now[-1]))
    assert np.all(np.diff(kept.x) > 0)


def test_a_single_spike_among_200_000_points_is_kept() -> None:
    y = np.zeros(200_000)
    y[123_457] = 5.0
    points = Points(np.arange(200_000, dtype=np.float64), y)
    assert decimate(points, points.x / 200_000, 100).y.max() == 5.0


@given(CURVES, st.sampled_from([0.1, 0.6, 0.9, 0.99]))
def test_smoothing_is_the_moving_average_that_steps_over_gaps(y: np.ndarray, weight: float) -> None:
    expected, mean, count = [], 0.0, 0
    for value in y:
        if math.isnan(value):
            expected.append(math.nan)
            continue
        mean, count = weight * mean + (1 - weight) * value, count + 1
        expected.append(mean / (1 - weight**count))
    np.testing.assert_allclose(smooth(y, weight), expected, rtol=1e-9, atol=1e-6)


def test_without_weight_nothing_is_smoothed() -> None:
    y = np.array([1.0, math.nan, 3.0])
    np.testing.assert_equal(smooth(y, 0.0), y)


def test_a_window_reaches_one_point_beyond_each_edge() -> None:
    points = Points(np.arange(10.0), np.arange(10.0))
    assert window(points, 3.5, 6.5).x.tolist() == [3, 4, 5, 6, 7]
    assert window(points, -5, 50).x.tolist() == list(range(10))


def test_a_band_is_mean_and_sample_deviation_over_what_is_there() -> None:
    grid = np.array([1.0, 2.0, 3.0])
    found = band([Points(grid, np.array([1.0, 2.0, math.nan])), Points(grid, np.array([3.0, 2.0, 5.0]))])
    np.testing.assert_allclose(found.mean, [2.0, 2.0, 5.0])
    np.testing.assert_allclose(found.std, [math.sqrt(2), 0.0, 0.0])
    assert found.count.tolist() == [2, 2, 1]


def test_a_band_interpolates_between_points_but_never_beyond_them() -> None:
    found = band(
        [Points(np.array([0.0, 2.0]), np.array([0.0, 2.0])), Points(np.array([1.0, 3.0]), np.array([1.0, 3.0]))]
    )
    assert found.x.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.mean, [0, 1, 2, 3])
    assert found.count.tolist() == [1, 2, 2, 1]
    assert len(band([]).x) == 0


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9), st.integers(1, 20))
def test_ticks_are_few_ordered_and_inside(low: float, span: float, at_most: int) -> None:
    scale = fitted(low, low + span, log=False)
    found = ticks(scale, at_most)
    room = (scale.high - scale.low) * 1e-6
    assert 1 <= len(found) <= at_most
    assert found == sorted(found)
    assert all(scale.low - room <= value <= scale.high + room for value in found)


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e9), st.booleans())
def test_a_scale_and_its_inverse_agree(low: float, ratio: float, log: bool) -> None:
    scale = fitted(low, low * ratio, log=log)
    for unit in (0.0, 0.25, 1.0):
        assert float(scale.unit(np.array([scale.value(unit)]))[0]) == pytest.approx(unit, abs=1e-6)


def test_scales_of_nothing_of_constants_and_of_noise_can_be_drawn() -> None:
    assert fitted(math.inf, -math.inf, log=False) == Scale(0.0, 1.0)
    assert fitted(5.0, 5.0, log=False) == Scale(4.5, 5.5)
    assert fitted(0.001, 0.001 + 1e-18, log=False).high > 0.00105
    assert fitted(2.0, 2.0, log=True).low < 2.0


def test_logarithms_have_no_place_for_what_is_not_positive() -> None:
    units = Scale(1.0, 100.0, log=True).unit(np.array([-1.0, 0.0, 1.0, 10.0, 100.0]))
    np.testing.assert_allclose(units, [math.nan, math.nan, 0.0, 0.5, 1.0])
    assert ticks(Scale(1e-4, 1.0, log=True), 5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_labels_tell_their_ticks_apart() -> None:
    assert value_labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert value_labels([0.25, 0.5]) == ["0.25", "0.50"]
    assert value_labels([200_000.0, 220_000.0]) == ["200k", "220k"]
    assert value_labels([1e-5, 2e-5]) == ["1e-5", "2e-5"]
    assert value_labels([1e-5, 0.001, 0.5, 1.0, 1e6], log=True) == ["1e-5", "0.001", "0.5", "1", "1M"]
    assert time_ticks(Scale(0, 3600), 4) == [0, 1800, 3600]


def drawn(points: list[tuple[float, float]], size: tuple[int, int] = (4, 2)) -> list[str]:
    """Return points on a grid of 0..1 x 0..1 as text."""
    xs, ys = np.array([x for x, _ in points]), np.array([y for _, y in points])
    return text(draw(Points(xs, ys), Scale(0, 1), Scale(0, 1), size))


def test_a_level_line_lies_in_one_row_of_dots() -> None:
    assert drawn([(0, 0), (1, 0)]) == ["    ", "⣀⣀⣀⣀"]
    assert drawn([(0, 1), (1, 1)]) == ["⠉⠉⠉⠉", "    "]


def test_a_gap_is_left_open_and_a_lonely_point_is_a_dot() -> None:
    assert drawn([(0, 0), (0.2, 0), (0.5, math.nan), (0.8, 0), (1, 0)]) == ["    ", "⣀  ⣀"]
    assert drawn([(0, math.nan), (0.5, 0), (1, math.nan)])[1].replace(" ", "") == "⡀"


def test_what_lies_outside_is_cut_at_the_edge() -> None:
    assert drawn([(0, -50), (1, -50)]) == ["    ", "    "]
    steep = drawn([(0, -100), (1, 100)])
    assert {len(row) for row in steep} == {4}
    assert sum(cell != " " for row in steep for cell in row) <= 3


@given(arrays(np.float64, 50, elements=st.one_of(st.floats(-1e300, 1e300), st.just(math.nan), st.just(math.inf))))
def test_any_values_can_be_drawn(y: np.ndarray) -> None:
    bits = draw(Points(np.linspace(0, 1, 50), y), Scale(0, 1), Scale(-1, 1), (10, 5))
    assert bits.shape == (5, 10)


def axis(*, marks: tuple[tuple[float, str], ...] = (), cursor: float | None = None, kind: str = "step") -> str:
    """Return the line below a plot of 40 columns over 0 to 2000."""
    return "".join(sign for sign, _ in x_cells(Scale(0.0, 2000.0), kind, 40, marks, cursor))


def test_marks_stand_on_the_axis_even_where_a_label_is() -> None:
    assert axis().rstrip() == "└0                  1k                 2k"
    marked = axis(marks=((1000.0, "↻"), (2000.0, "◆"), (3000.0, "◆")))
    assert (len(marked), marked.index("◆"), marked.index("↻")) == (41, 40, 21)
    assert "2k◆" in marked
    assert "1k↻" in marked


def test_the_crosshairs_place_is_exact_and_in_the_way_of_labels() -> None:
    assert "1,000" in axis(cursor=0.5)
    assert "1k" not in axis(cursor=0.5)
    assert axis(cursor=1.0).endswith("2,000")
    assert axis(cursor=0.0).startswith("└0")
    assert "16m40" in axis(cursor=0.5, kind="time")


def test_letters_name_curves_where_there_are_no_colours() -> None:
    xs = np.arange(100, dtype=np.float64)
    lines = tuple(
        Line(name, f"series:{index}", Points(xs, xs * 0 + index)) for index, name in enumerate(("low", "high"))
    )
    chart, view = ChartData("loss", lines), View()
    x = x_scale([chart], view)
    strips = render(chart, view, (60, 12), x=x, palette=DARK, letters=True)
    texts = [strip.text[9:] for strip in strips[1:10]]
    rows = {letter: {row for row, text in enumerate(texts) if letter in text} for letter in "ab"}
    assert [len(found) for found in rows.values()] == [1, 1]
    assert min(rows["b"]) < min(rows["a"])
    assert sum(text.count("a") for text in texts) == 3
    assert "a low 0" in strips[-1].text
    assert "b high 1" in strips[-1].text
    plain = render(chart, view, (60, 12), x=x, palette=DARK)
    assert not any("a" in strip.text[9:] for strip in plain[1:10])
    alone = render(ChartData("loss", lines[:1]), view, (60, 12), x=x, palette=DARK, letters=True)
    assert not any("a" in strip.text[9:] for strip in alone[1:10])


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from([0.0, 0.05]),
)
@example(1e-300, 1e300, True, 0.05)
@example(-1.7e308, 1.7e308, False, 0.05)
@example(0.0, 5e-324, False, 0.05)
def test_no_value_is_too_large_or_too_small_for_an_axis(one: float, other: float, log: bool, margin: float) -> None:
    """A loss that has diverged must not end the terminal UI."""
    low, high = sorted((one, other))
    scale = fitted(low, high, log=log, margin=margin)
    for _ in range(3):
        values = ticks(scale, 14)
        assert np.isfinite(values).all()
        assert all(value_labels(values, log=log))
        assert not np.isnan(scale.unit(np.array([scale.low, scale.high]))).any()
        scale = scale.zoomed(0.1)
