"""What a worker prints, live: the end stays in view until one scrolls up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.segment import Segment
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.theme import palette_of, style

KEPT_LINES = 20_000
ALARMS = ("error", "exception", "traceback", "killed")


class LogView(ScrollView, inherit_bindings=False):
    """Lines of a log; `follow` keeps the end in view."""

    DEFAULT_CSS = "LogView { overflow-x: hidden; overflow-y: auto; scrollbar-size: 0 1; }"

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.follow = True
        self.message = "nothing printed yet"

    def show(self, lines: Sequence[str], *, first: bool) -> None:
        """Add lines, or begin anew with them."""
        if first:
            self.lines.clear()
        dropped = max(0, len(self.lines) + len(lines) - KEPT_LINES)
        self.lines.extend(lines)
        longest = max((len(line) for line in lines), default=0)
        self.virtual_size = Size(max(longest, self.virtual_size.width if not first else 0), len(self.lines))
        if self.follow:
            self.scroll_to(y=self.max_scroll_y, animate=False, immediate=True)
        elif dropped:
            self.scroll_to(y=self.scroll_y - dropped, animate=False, immediate=True)
        self.refresh()

    @property
    def page(self) -> int:
        """How many lines are in view."""
        return max(1, self.scrollable_content_region.height)

    def move(self, rows: int = 0, columns: int = 0) -> None:
        """Scroll; at the end the log is followed again."""
        self.scroll_to(x=self.scroll_x + 8 * columns, y=self.scroll_y + rows, animate=False, immediate=True)
        if rows:
            self.follow = self.scroll_y >= self.max_scroll_y

    def move_to(self, index: int) -> None:
        """Scroll to a line."""
        self.scroll_to(y=min(max(0, index), self.max_scroll_y), animate=False, immediate=True)
        self.follow = self.scroll_y >= self.max_scroll_y

    def on_mouse_scroll_up(self) -> None:
        """Stop following."""
        self.follow = False

    def render_line(self, y: int) -> Strip:
        """Paint one line."""
        palette = palette_of(self.app.theme)
        width = self.scrollable_content_region.width
        left, top = self.scroll_offset
        ground = style(palette.text, palette.background)
        index = y + top
        if not self.lines and y == 0:
            return Strip([Segment(self.message, style(palette.muted, palette.background))]).adjust_cell_length(
                width, ground
            )
        if index >= len(self.lines):
            return Strip.blank(width, ground)
        line = self.lines[index]
        alarm = any(word in line.lower() for word in ALARMS)
        ink = style(palette.bad, palette.background) if alarm else ground
        return Strip([Segment(line, ink)]).crop_extend(left, left + width, ground)
