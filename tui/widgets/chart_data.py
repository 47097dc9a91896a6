"""What a chart shows, and how."""

from __future__ import annotations

from dataclasses import dataclass

from tui.plot.series import Band, Points


@dataclass(frozen=True, slots=True)
class Line:
    """A curve of a chart; its colour by name, so that it follows the theme."""

    label: str
    color: str
    points: Points


@dataclass(frozen=True, slots=True)
class Shade:
    """A mean with its spread."""

    label: str
    color: str
    band: Band


@dataclass(frozen=True, slots=True)
class ChartData:
    """What a chart shows. `marks` are places on the x axis with a sign: checkpoints, new attempts."""

    title: str
    lines: tuple[Line, ...] = ()
    shades: tuple[Shade, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """How charts are shown. `x_range` None shows everything; `cursor` is the crosshair's place, 0 to 1."""

    x_kind: str = "step"
    log_x: bool = False
    log_y: bool = False
    smoothing: float = 0.0
    x_range: tuple[float, float] | None = None
    cursor: float | None = None
