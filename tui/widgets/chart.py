"""One chart as lines of text: axes, braille curves, bands, crosshair, legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from textual.strip import Strip

from tui.cells import fit
from tui.format import number
from tui.plot.raster import BRAILLE, Bits, draw
from tui.plot.scale import Scale, fitted
from tui.plot.series import Floats, Points, decimate, smooth, window
from tui.theme import Palette, named_color, style
from tui.widgets.chart_axes import x_cells, y_labels
from tui.widgets.chart_data import ChartData, Line, Shade, View

GUTTER = 8
FEW = 3  # bands whose edges are dotted, for terminals without colour; with more of them edges only confuse


@dataclass(slots=True)
class _Layer:
    bits: Bits
    color: str


def x_scale(charts: Sequence[ChartData], view: View) -> Scale:
    """Return the x axis that all charts of a grid share."""
    if view.x_range is not None:
        low, high = view.x_range
        return Scale(max(low, 1e-9), max(high, 2e-9), log=True) if view.log_x else Scale(low, high)
    ends = [xs for chart in charts for xs in _xs(chart) if len(xs)]
    if view.log_x:
        ends = [xs[xs > 0] for xs in ends]
    filled = [xs for xs in ends if len(xs)]
    if not filled:
        return fitted(1.0, 10.0, log=view.log_x)
    return fitted(min(float(xs[0]) for xs in filled), max(float(xs[-1]) for xs in filled), log=view.log_x)


def _xs(chart: ChartData) -> list[Floats]:
    return [line.points.x for line in chart.lines] + [shade.band.x for shade in chart.shades]


def render(
    chart: ChartData,
    view: View,
    size: tuple[int, int],
    *,
    x: Scale,
    palette: Palette,
    focused: bool = False,
    legend: bool = True,
    letters: bool = False,
) -> list[Strip]:
    """Return a chart as exactly `size` = (width, height) cells; with `letters`, which stand in for colours, on its curves."""
    width, height = size
    prepared = replace(chart, lines=tuple(replace(line, points=_visible(line, view, x)) for line in chart.lines))
    below = _legend(prepared, view, x, width, palette, letters=letters) if legend and height >= 9 else []
    plot = (max(4, width - GUTTER - 1), max(1, height - 2 - len(below)))
    y = y_scale(prepared, view, x)
    ready = [replace(line, points=_decimated(line.points, x, plot[0])) for line in prepared.lines]
    layers, tint = _layers(ready, prepared.shades, x, y, plot)
    if view.smoothing and len(chart.lines) == 1:
        raw = _visible(chart.lines[0], replace(view, smoothing=0.0), x)
        bits = draw(_decimated(raw, x, plot[0]), x, y, plot)
        layers.insert(0, _Layer(bits, "faint"))
    rows = [_title(prepared, view, x, width, palette, focused=focused)]
    named = _letters(layers, plot[0]) if letters else {}
    rows += _plot_rows(layers, tint, y, plot, view=view, palette=palette, letters=named)
    rows.append(_x_axis(chart, view, x, plot[0], palette))
    rows += below
    return [Strip(row).adjust_cell_length(width) for row in rows[:height]]


def _visible(line: Line, view: View, x: Scale) -> Points:
    points = line.points
    if view.smoothing:
        points = Points(points.x, smooth(points.y, view.smoothing))
    if view.log_x and len(points) and points.x[0] <= 0:
        first = int(np.searchsorted(points.x, 0.0, "right"))
        points = Points(points.x[first:], points.y[first:])
    return window(points, x.low, x.high)


def _decimated(points: Points, x: Scale, columns: int) -> Points:
    return decimate(points, x.unit(points.x), columns * 2)


def y_scale(chart: ChartData, view: View, x: Scale) -> Scale:
    """Return the y axis that holds all that is visible."""
    low, high = np.inf, -np.inf
    arrays = [_inside(line.points.x, line.points.y, x) for line in chart.lines]
    for shade in chart.shades:
        band = shade.band
        arrays += [_inside(band.x, band.mean - band.std, x), _inside(band.x, band.mean + band.std, x)]
    for values in arrays:
        shown = values[np.isfinite(values) & ((values > 0) if view.log_y else True)]
        if len(shown):
            low, high = min(low, float(shown.min())), max(high, float(shown.max()))
    return fitted(float(low), float(high), log=view.log_y, margin=0.03)


def _inside(xs: Floats, ys: Floats, x: Scale) -> Floats:
    return ys[(xs >= x.low) & (xs <= x.high)]


def _layers(
    lines: Sequence[Line], shades: Sequence[Shade], x: Scale, y: Scale, plot: tuple[int, int]
) -> tuple[list[_Layer], NDArray[np.bool_]]:
    layers = [_Layer(draw(line.points, x, y, plot), line.color) for line in lines]
    tint = np.zeros((plot[1], plot[0]), dtype=bool)
    for shade in shades:
        band = shade.band
        inside = (band.x >= x.low) & (band.x <= x.high)
        xs, mean, std = band.x[inside], band.mean[inside], band.std[inside]
        for edge in (mean - std, mean + std) if len(shades) <= FEW else ():
            curve = _decimated(Points(xs, edge), x, plot[0])
            layers.append(_Layer(draw(curve, x, y, plot, dotted=True), shade.color))
        layers.append(_Layer(draw(_decimated(Points(xs, mean), x, plot[0]), x, y, plot), shade.color))
        _tint(tint, Points(xs, mean - std), Points(xs, mean + std), x, y)
    return layers, tint


def letter_of(color: str) -> str:
    """Return the letter that stands in for a series' colour: a for `series:0`."""
    return chr(ord("a") + int(color.partition(":")[2] or 0) % 26)


def _letters(layers: Sequence[_Layer], columns: int) -> dict[tuple[int, int], str]:
    """Return where each of several curves is named, by (row, column): thrice, and no two at the same column."""
    curves = {
        layer.color: layer for layer in layers if layer.color.startswith("series:")
    }  # a mean comes after its edges
    placed: dict[tuple[int, int], str] = {}
    for index, (color, layer) in enumerate(curves.items() if len(curves) > 1 else ()):
        for part in range(3):
            column = int((part + (index + 0.5) / len(curves)) / 3 * columns)
            rows = np.flatnonzero(layer.bits[:, column])
            if len(rows):
                placed[int(rows[len(rows) // 2]), column] = letter_of(color)
    return placed


def _tint(tint: NDArray[np.bool_], low: Points, high: Points, x: Scale, y: Scale) -> None:
    rows, columns = tint.shape
    finite = np.isfinite(low.y) & np.isfinite(high.y)
    if not finite.any():
        return
    at = (np.arange(columns) + 0.5) / columns
    units = x.unit(low.x[finite])
    bottom = np.interp(at, units, low.y[finite], left=np.nan, right=np.nan)
    top = np.interp(at, units, high.y[finite], left=np.nan, right=np.nan)
    lower, upper = (1 - y.unit(bottom)) * rows, (1 - y.unit(top)) * rows
    centers = np.arange(rows)[:, None] + 0.5
    tint |= (centers >= upper - 0.25) & (centers <= lower + 0.25)


def _title(chart: ChartData, view: View, x: Scale, width: int, palette: Palette, *, focused: bool) -> list[Segment]:
    values = values_at(chart, view, x)
    several = f"{len(values)} series" if values else "no points yet"
    right = number(values[0][1], 5) if len(values) == 1 else several
    flags = " log" if view.log_y else ""
    if view.smoothing and chart.lines:
        flags += f" ema {view.smoothing:g}"
    room = max(0, width - len(right) - 3)
    title = fit(("▍" if focused else " ") + chart.title + flags, room)
    ink = style(palette.accent if focused else palette.text, bold=True)
    value_ink = style(named_color(palette, values[0][2] if len(values) == 1 else "muted"), bold=len(values) == 1)
    return [Segment(title, ink), Segment(f" {right} ", value_ink)]


def values_at(chart: ChartData, view: View, x: Scale) -> list[tuple[str, float, str]]:
    """Return (label, value, colour) of every curve at the crosshair, or of its last finite point."""
    result = []
    curves = [(line.label, line.color, line.points.x, line.points.y) for line in chart.lines]
    curves += [(shade.label, shade.color, shade.band.x, shade.band.mean) for shade in chart.shades]
    for label, color, xs, ys in curves:
        if not len(xs):
            continue
        if view.cursor is None:
            finite = np.flatnonzero(np.isfinite(ys))
            index = int(finite[-1]) if len(finite) else len(ys) - 1
        else:
            index = nearest(xs, x.value(view.cursor))
        result.append((label, float(ys[index]), color))
    return result


def nearest(xs: Floats, at: float) -> int:
    """Return the index of the point nearest to a place on the x axis."""
    index = int(np.searchsorted(xs, at))
    if index == 0:
        return 0
    if index == len(xs):
        return len(xs) - 1
    return index if xs[index] - at < at - xs[index - 1] else index - 1


def _plot_rows(
    layers: list[_Layer],
    tint: NDArray[np.bool_],
    y: Scale,
    plot: tuple[int, int],
    *,
    view: View,
    palette: Palette,
    letters: Mapping[tuple[int, int], str],
) -> list[list[Segment]]:
    columns, rows = plot
    labels = y_labels(y, rows)
    bits, color = _merged(layers, plot)
    paints = [named_color(palette, layer.color) for layer in layers]
    cross = None if view.cursor is None else min(columns - 1, max(0, round(view.cursor * (columns - 1))))
    result = []
    for row in range(rows):
        label = labels.get(row)
        gutter = Segment(f"{fit(label or '', GUTTER - 1, 'right')} ", style(palette.muted))
        axis = Segment("┤" if label else "│", style(palette.faint))
        codes, inks, tints = bits[row].tolist(), color[row].tolist(), tint[row].tolist()
        cells = []
        for column in range(columns):
            background = palette.panel if tints[column] else ""
            if (row, column) in letters:
                cells.append((letters[row, column], palette.text, background))
            elif codes[column]:
                cells.append((chr(BRAILLE + codes[column]), paints[inks[column]], background))
            elif column == cross:
                cells.append(("│", palette.muted, background))
            else:
                cells.append((" ", palette.text, background))
        result.append([gutter, axis, *_runs(cells)])
    return result


def _runs(cells: list[tuple[str, str, str]]) -> list[Segment]:
    return [
        Segment("".join(cell[0] for cell in run), style(ink, background))
        for (ink, background), run in groupby(cells, key=lambda cell: (cell[1], cell[2]))
    ]


def _merged(layers: list[_Layer], plot: tuple[int, int]) -> tuple[Bits, NDArray[np.int64]]:
    columns, rows = plot
    bits = np.zeros((rows, columns), dtype=np.uint8)
    color = np.zeros((rows, columns), dtype=np.int64)
    for index, layer in enumerate(layers):  # the last one on top
        bits |= layer.bits
        color[layer.bits > 0] = index
    return bits, color


def _x_axis(chart: ChartData, view: View, x: Scale, columns: int, palette: Palette) -> list[Segment]:
    cells = x_cells(x, view.x_kind, columns, chart.marks, view.cursor)
    return [Segment(" " * GUTTER), *_runs([(sign, named_color(palette, color), "") for sign, color in cells])]


def _legend(
    chart: ChartData, view: View, x: Scale, width: int, palette: Palette, *, letters: bool
) -> list[list[Segment]]:
    values = values_at(chart, view, x)
    if len(values) < 2:
        return []
    rows: list[list[Segment]] = [[Segment(" " * GUTTER)]]
    used = GUTTER
    for place, (label, value, color) in enumerate(values):
        text = f"{label} {number(value)}"
        if used + len(text) + 4 > width and used > GUTTER:
            if len(rows) == 2:
                rows[-1].append(Segment(f" +{len(values) - place}", style(palette.muted)))
                break
            rows.append([Segment(" " * GUTTER)])
            used = GUTTER
        sign = f" {letter_of(color)} " if letters else " ━ "
        rows[-1] += [Segment(sign, style(named_color(palette, color), bold=True)), Segment(text, style(palette.muted))]
        used += len(text) + 3
    return rows
