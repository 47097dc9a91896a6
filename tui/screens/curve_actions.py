"""The actions of screens that show curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tui.screens.base import LabScreen
from tui.widgets.chart_axes import X_AXES
from tui.widgets.chart_data import View
from tui.widgets.curves import Curves


class CurveActions(LabScreen):
    """A screen with a grid of charts."""

    x_kinds: tuple[str, ...] = ("step", "time")

    @property
    def curves(self) -> Curves:
        """The grid."""
        return self.query_one(Curves)

    def draw_curves(self) -> None:
        """Make the charts anew; the x axis has changed."""

    def remembered(self) -> View:
        """Return the view that one had last time: smoothing, the x axis and whether y is logarithmic."""
        settings = self.lab.settings
        kind = settings.x_axis if settings.x_axis in X_AXES else "step"
        return View(x_kind=kind, log_y=settings.log_y, smoothing=settings.smoothing)

    def remember(self) -> None:
        """Keep the view for next time; not that of the machine's charts, which are over time."""
        if self.curves.id == "curves":
            view, settings = self.curves.view, self.lab.settings
            settings.x_axis, settings.log_y, settings.smoothing = view.x_kind, view.log_y, view.smoothing
            self.lab.save_settings()

    def do_next_chart(self) -> None:
        """Focus the next chart, after the last the first."""
        self.curves.focus_chart((self.curves.focus_index + 1) % max(1, len(self.curves.charts)))

    def do_previous_chart(self) -> None:
        """Focus the previous chart."""
        self.curves.focus_chart((self.curves.focus_index - 1) % max(1, len(self.curves.charts)))

    def do_x_axis(self) -> None:
        """Draw over the next kind of x."""
        kinds, view = self.x_kinds, self.curves.view
        kind = kinds[(kinds.index(view.x_kind) + 1) % len(kinds)] if view.x_kind in kinds else kinds[0]
        self.curves.view = replace(view, x_kind=kind, x_range=None)
        self.draw_curves()
        self.remember()

    def take_x_axis(self, kind: str) -> None:
        """Draw over a kind of x."""
        if kind not in self.x_kinds:
            raise ValueError(f"expected {', '.join(self.x_kinds)}, got {kind!r}")
        self.curves.view = replace(self.curves.view, x_kind=kind, x_range=None)
        self.draw_curves()
        self.remember()

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        return self.x_kinds if name == "x_axis" else super().choices(name)

    def do_log_y(self) -> None:
        """Turn the logarithmic y axis on or off."""
        self.curves.set_view(replace(self.curves.view, log_y=not self.curves.view.log_y))
        self.remember()

    def do_log_x(self) -> None:
        """Turn the logarithmic x axis on or off."""
        self.curves.set_view(replace(self.curves.view, log_x=not self.curves.view.log_x, x_range=None))

    def do_smooth(self) -> None:
        """Smooth more."""
        self.curves.smoother()
        self.remember()

    def take_smooth(self, text: str) -> None:
        """Smooth with a weight: an exponential moving average."""
        try:
            weight = float(text)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < 1:
            raise ValueError(f"expected a weight from 0 (none) to below 1, got {text!r}")
        self.curves.set_view(replace(self.curves.view, smoothing=weight))
        self.remember()

    def do_zoom_in(self) -> None:
        """Zoom in."""
        self.curves.zoom(1)

    def do_zoom_out(self) -> None:
        """Zoom out."""
        self.curves.zoom(-1)

    def do_reset(self) -> None:
        """Show everything."""
        self.curves.reset()

    def do_inspect(self) -> None:
        """Show the crosshair."""
        self.curves.inspect()

    def leave_curves(self) -> bool:
        """Take off the innermost layer of the view: crosshair, zoom, enlargement. False where there is none."""
        if self.curves.view.cursor is not None:
            self.curves.inspect()
        elif self.curves.view.x_range is not None:
            self.curves.reset()
        elif self.curves.alone:
            self.curves.enlarge()
        else:
            return False
        return True
