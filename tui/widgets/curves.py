"""A grid of charts that share their x axis: zoom, pan, crosshair, smoothing, logarithmic axes.

One widget paints them all. A chart is drawn when one of its lines comes into view and kept until something changes, so
charts out of sight cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.segment import Segment
from textual import events
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.plot.scale import Scale
from tui.theme import palette_of, style
from tui.widgets.chart import GUTTER, render, x_scale
from tui.widgets.chart_data import ChartData, View

SMOOTHINGS = (0.0, 0.6, 0.9, 0.97, 0.99)
MIN_WIDTH = 38
MIN_HEIGHT = 8
PAN = 0.2
ZOOM = 1.5


class Curves(ScrollView, inherit_bindings=False):
    """Charts in a grid, one of them in focus; or that one alone."""

    DEFAULT_CSS = "Curves { overflow-x: hidden; overflow-y: auto; scrollbar-size: 0 1; }"

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.charts: Sequence[ChartData] = ()
        self.view = View()
        self.focus_index = 0
        self.alone = False
        self.message = "reading the curves ..."
        self._kept: dict[int, list[Strip]] = {}
        self._kept_for: object = None
        self._x: Scale | None = None

    def show(self, charts: Sequence[ChartData]) -> None:
        """Show these charts; focus and view stay."""
        self.charts = charts
        self.focus_index = min(self.focus_index, max(0, len(charts) - 1))
        self._changed()

    def set_view(self, view: View) -> None:
        """Show the charts differently."""
        self.view = view
        self._changed()

    def _changed(self) -> None:
        self._kept.clear()
        self._x = None
        self._layout_size()
        self.refresh()

    def on_resize(self, _event: events.Resize) -> None:
        """Lay the grid out anew."""
        self._changed()

    @property
    def x(self) -> Scale:
        """The x axis in view."""
        if self._x is None:
            self._x = x_scale(self.charts, self.view)
        return self._x

    @property
    def columns(self) -> int:
        """How many charts stand side by side."""
        if self.alone:
            return 1
        return max(1, min(3, len(self.charts), self.scrollable_content_region.width // MIN_WIDTH))

    @property
    def chart_size(self) -> tuple[int, int]:
        """Width and height of a chart in cells: the rows share the height, but never below what can be read."""
        region = self.scrollable_content_region
        if self.alone:
            return max(10, region.width), max(4, region.height)
        rows = -(-len(self.charts) // self.columns) or 1
        return max(10, region.width // self.columns), max(MIN_HEIGHT, region.height // min(rows, 6))

    def _layout_size(self) -> None:
        rows = 1 if self.alone else -(-len(self.charts) // self.columns)
        self.virtual_size = Size(self.scrollable_content_region.width, rows * self.chart_size[1])

    def render_line(self, y: int) -> Strip:
        """Paint one line of the charts that stand side by side there."""
        palette = palette_of(self.app.theme)
        width = self.scrollable_content_region.width
        ground = style(palette.muted, palette.background)
        if not self.charts:
            text = f"  {self.message}" if y == 1 else ""
            return Strip([Segment(text, ground)]).adjust_cell_length(width, ground)
        chart_width, height = self.chart_size
        row, line = divmod(y + round(self.scroll_y), height)
        first = self.focus_index if self.alone else row * self.columns
        if (self.alone and row) or first >= len(self.charts):
            return Strip.blank(width, ground)
        strips = [self._chart(index, (chart_width, height))[line]
                  for index in range(first, min(first + self.columns, len(self.charts)))]  # fmt: skip
        return Strip.join(strips).adjust_cell_length(width, ground)

    def _chart(self, index: int, size: tuple[int, int]) -> list[Strip]:
        state = (self.view, size, self.app.theme, self.focus_index, self.alone)
        if state != self._kept_for:
            self._kept.clear()
            self._kept_for = state
        if index not in self._kept:
            palette = palette_of(self.app.theme)
            legend = self.alone or self.view.cursor is not None  # in a grid the screen's own legend is enough
            strips = render(self.charts[index], self.view, size, x=self.x, palette=palette,
                            focused=index == self.focus_index, legend=legend, letters=self.app.no_color)  # fmt: skip
            blank = [Strip.blank(size[0], style(palette.text, palette.background))] * (size[1] - len(strips))
            self._kept[index] = [strip.apply_style(style(palette.text, palette.background)) for strip in strips] + blank
        return self._kept[index]

    @property
    def page(self) -> int:
        """How many rows of charts are in view."""
        return max(1, self.scrollable_content_region.height // self.chart_size[1]) + 1

    def move(self, rows: int = 0, columns: int = 0) -> None:
        """Focus another chart; with columns pan, or move the crosshair."""
        if rows:
            self.focus_chart(self.focus_index + rows * (1 if self.alone else self.columns))
        if columns and self.view.cursor is not None:
            cells = max(2, self.chart_size[0] - GUTTER - 2)
            cursor = min(1.0, max(0.0, self.view.cursor + columns / cells))
            self.set_view(replace(self.view, cursor=cursor))
        elif columns:
            self._set_range(self.x.moved(PAN * columns))

    def move_to(self, index: int) -> None:
        """Focus a chart by its place."""
        self.focus_chart(index)

    def focus_chart(self, index: int) -> None:
        """Focus a chart and bring it into view."""
        self.focus_index = max(0, min(len(self.charts) - 1, index))
        self._layout_size()
        if not self.alone:
            height = self.chart_size[1]
            top = self.focus_index // self.columns * height
            if top < self.scroll_y or top + height > self.scroll_y + self.scrollable_content_region.height:
                self.scroll_to(y=top, animate=False, immediate=True)
        self.refresh()

    def enlarge(self) -> bool:
        """Show the focused chart alone, or all again; return whether it is alone now."""
        self.alone = not self.alone
        self._changed()
        if self.alone:
            self.scroll_to(y=0, animate=False, immediate=True)
        else:
            self.focus_chart(self.focus_index)
        return self.alone

    def zoom(self, direction: int, center: float = 0.5) -> None:
        """Zoom in (1) or out (-1) along x, around the crosshair where there is one."""
        around = self.view.cursor if self.view.cursor is not None else center
        self._set_range(self.x.zoomed(ZOOM if direction > 0 else 1 / ZOOM, around))

    def _set_range(self, scale: Scale) -> None:
        whole = x_scale(self.charts, replace(self.view, x_range=None))
        if scale.low <= whole.low and scale.high >= whole.high:
            self.set_view(replace(self.view, x_range=None))
        elif scale.high > whole.low and scale.low < whole.high:
            self.set_view(replace(self.view, x_range=(scale.low, scale.high)))

    def reset(self) -> None:
        """Show all of x again."""
        self.set_view(replace(self.view, x_range=None))

    def inspect(self) -> None:
        """Show the crosshair, or take it away."""
        self.set_view(replace(self.view, cursor=None if self.view.cursor is not None else 0.5))

    def smoother(self) -> None:
        """Smooth more, and after the most not at all."""
        at = SMOOTHINGS.index(self.view.smoothing) if self.view.smoothing in SMOOTHINGS else 0
        self.set_view(replace(self.view, smoothing=SMOOTHINGS[(at + 1) % len(SMOOTHINGS)]))

    def on_click(self, event: events.Click) -> None:
        """Focus the clicked chart; twice enlarges it; with the crosshair on, move it there."""
        if not self.charts:
            return
        width, height = self.chart_size
        column, row = event.x // width, (event.y + round(self.scroll_y)) // height
        index = self.focus_index if self.alone else row * self.columns + column
        if 0 <= index < len(self.charts):
            self.focus_chart(index)
        if self.view.cursor is not None:
            place = (event.x - column * width - GUTTER - 1) / max(1, width - GUTTER - 2)
            self.set_view(replace(self.view, cursor=min(1.0, max(0.0, place))))
        if event.chain == 2:
            self.enlarge()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in with ctrl and the wheel."""
        if event.ctrl:
            self.zoom(1)
            event.stop()
            event.prevent_default()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out with ctrl and the wheel."""
        if event.ctrl:
            self.zoom(-1)
            event.stop()
            event.prevent_default()
