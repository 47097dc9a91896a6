"""Layers by steps as a field of colours, with a scale below it and a crosshair.

A colour's brightness rises evenly with the value, so it reads without hues. Without colours at all, NO_COLOR, a layer is a
row of columns as high as their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.cells import fit
from tui.format import number
from tui.lens import Grid, columns_of
from tui.plot.scale import Scale
from tui.theme import Palette, palette_of, style
from tui.widgets.chart import GUTTER
from tui.widgets.chart_axes import x_cells

EIGHTHS = " ▁▂▃▄▅▆▇█"
LEVELS = 32
RAMPS = {
    True: ("#17233b", "#1d4f7c", "#2f8f9d", "#7cc68a", "#f0e442"),
    False: ("#f4f1d8", "#a9d3c4", "#4f9fbf", "#205f94", "#141f3f"),
}
BELOW = 2  # lines below the field: the steps, and the scale
MOST_LINES = 6  # a layer is no higher than so many lines


@lru_cache(maxsize=2)
def ramp(dark: bool) -> tuple[str, ...]:
    """Return the colours from the lowest value to the highest, for dark or for light ground."""
    anchors = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in RAMPS[dark]], dtype=float)
    places = np.linspace(0, len(anchors) - 1, LEVELS)
    mixed = [np.interp(places, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return tuple("#{:02x}{:02x}{:02x}".format(*(round(value) for value in color)) for color in zip(*mixed, strict=True))


class Heatmap(ScrollView, inherit_bindings=False):
    """A grid with a cursor on a layer and a place along the steps, 0 to 1."""

    DEFAULT_CSS = "Heatmap { overflow-x: hidden; overflow-y: auto; scrollbar-size: 0 1; }"

    class Moved(Message):
        """The cursor is elsewhere."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.grid: Grid | None = None
        self.scale = Scale(0.0, 1.0)
        self.unit = ""
        self.row = 0
        self.cursor = 1.0
        self._columns: NDArray[np.float64] | None = None  # of the grid at the width in view

    def show(self, grid: Grid, *, log: bool, unit: str) -> None:
        """Show a grid; the cursor stays."""
        self.grid, self.scale, self.unit = grid, grid.scale(log=log), unit
        self.row = min(self.row, max(0, grid.layers - 1))
        self._lay_out()

    def on_resize(self, _event: events.Resize) -> None:
        """Lay out anew."""
        self._lay_out()

    def _lay_out(self) -> None:
        self._columns = None
        if self.grid is not None:
            height = self.grid.layers * self.layer_height + BELOW
            self.virtual_size = Size(self.scrollable_content_region.width, height)
        self.refresh()

    @property
    def columns(self) -> int:
        """How many cells a layer has."""
        return max(4, self.scrollable_content_region.width - GUTTER - 1)

    @property
    def layer_height(self) -> int:
        """How many lines a layer has."""
        layers = self.grid.layers if self.grid is not None else 1
        return max(1, min(MOST_LINES, (self.scrollable_content_region.height - BELOW) // max(1, layers)))

    @property
    def page(self) -> int:
        """How many layers a page moves."""
        return max(1, self.scrollable_content_region.height // self.layer_height)

    def move(self, rows: int = 0, columns: int = 0) -> None:
        """Move the cursor by layers, or by cells along the steps."""
        if self.grid is None:
            return
        self.row = max(0, min(self.grid.layers - 1, self.row + rows))
        self.cursor = max(0.0, min(1.0, self.cursor + columns / max(1, self.columns - 1)))
        self._moved()

    def move_to(self, index: int) -> None:
        """Put the cursor on a layer."""
        self.move(rows=index - self.row)

    def _moved(self) -> None:
        top, height = self.row * self.layer_height, self.scrollable_content_region.height - BELOW
        if not self.scroll_y <= top <= self.scroll_y + height - self.layer_height:
            self.scroll_to(y=max(0, top - height + self.layer_height), animate=False, immediate=True)
        self.refresh()
        self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        """Paint a line: a part of a layer, the steps, or the scale."""
        palette = palette_of(self.app.theme)
        region = self.scrollable_content_region
        ground = style(palette.text, palette.background)
        if self.grid is None or not len(self.grid.steps):
            return Strip.blank(region.width, ground)
        shown = min(region.height - BELOW, self.grid.layers * self.layer_height)
        if y < shown:
            layer, line = divmod(y + round(self.scroll_y), self.layer_height)
            strip = self._layer(layer, line, palette)
        elif y < shown + BELOW:
            strip = self._steps(palette) if y == shown else self._scale(palette)
        else:
            strip = Strip([])
        return strip.adjust_cell_length(region.width, ground)

    def _layer(self, layer: int, line: int, palette: Palette) -> Strip:
        grid = self.grid
        assert grid is not None
        here = layer == self.row
        kind = grid.kinds.get(layer, "")
        label = f"{layer} {kind.removeprefix('mamba/')}" if kind else str(layer)
        ink = palette.accent if here else palette.muted
        text = f"{'▍' if here else ' '}{fit(label if line == 0 else '', GUTTER - 1)}│"
        segments = [Segment(text, style(ink, palette.background, bold=here))]
        if layer in grid.kinds:
            word = f" no probes: {kind or 'not an S6 layer'}" if line == 0 else ""
            return Strip([*segments, Segment(word, style(palette.faint, palette.background))])
        if self._columns is None:
            self._columns = columns_of(grid, self.columns)
        units = self.scale.unit(self._columns[layer])
        at = round(self.cursor * (self.columns - 1))
        paint = self._painter(palette, self.layer_height, line)
        for column, unit in enumerate(units.tolist()):
            sign, ground, ink = paint(unit)
            if column == at:
                sign, ink = ("┃" if here else "│"), palette.bad if here else palette.text
            segments.append(Segment(sign, style(ink, ground)))
        return Strip(segments)

    def _painter(self, palette: Palette, height: int, line: int) -> Callable[[float], tuple[str, str, str]]:
        """Return what gives a place on the scale its sign, its ground and its ink, in a line of a layer of some height."""
        colors = ramp(palette.background < "#808080")

        def paint(unit: float) -> tuple[str, str, str]:
            if math.isnan(unit):
                return "·", palette.background, palette.faint
            share = min(1.0, max(0.0, unit))
            if not self.app.no_color:
                return " ", colors[round(share * (LEVELS - 1))], palette.text
            full = 1 + round(share * (8 * height - 1))  # eighths of a line; the lowest value is seen as well
            return EIGHTHS[min(8, max(0, full - 8 * (height - 1 - line)))], palette.background, palette.muted

        return paint

    def _steps(self, palette: Palette) -> Strip:
        assert self.grid is not None
        scale = Scale(float(self.grid.steps[0]), float(self.grid.steps[-1]))
        colors = {"muted": palette.muted, "accent": palette.accent, "best": palette.best}
        cells = x_cells(scale, "step", self.columns, (), self.cursor)
        return Strip([Segment(" " * GUTTER, style(palette.muted, palette.background)),
                      *(Segment(sign, style(colors[color], palette.background)) for sign, color in cells)])  # fmt: skip

    def _scale(self, palette: Palette) -> Strip:
        muted = style(palette.muted, palette.background)
        low, high = number(self.scale.low, 3), number(self.scale.high, 3)
        paint = self._painter(palette, 1, 0)
        count = max(8, min(LEVELS, self.columns - len(low) - len(high) - len(self.unit) - 12))
        field = [
            Segment(sign, style(ink, ground)) for sign, ground, ink in (paint(at / (count - 1)) for at in range(count))
        ]
        words = f" {high} {self.unit}" + ("   logarithmic" if self.scale.log else "")
        return Strip([Segment(" " * (GUTTER + 1) + f"{low} ", muted), *field, Segment(words, muted)])

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where one clicks."""
        if self.grid is None:
            return
        layer = (event.y + round(self.scroll_y)) // self.layer_height
        if event.x > GUTTER and layer < self.grid.layers:
            self.row = layer
            self.cursor = min(1.0, max(0.0, (event.x - GUTTER - 1) / max(1, self.columns - 1)))
            self._moved()
