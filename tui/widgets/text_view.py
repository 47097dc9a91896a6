"""Text that scrolls: lines of coloured pieces, painted as they come into view."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from storage.encoding import visible
from tui.cells import cells, fitting
from tui.theme import named_color, palette_of, style

TextLine = Sequence[tuple[str, str]]  # (text, name of a colour of the palette or a status; empty: the text's)


class TextView(ScrollView, inherit_bindings=False):
    """Scrolls over lines. Long lines are wrapped at the width, or scroll sideways with `wrap` off."""

    DEFAULT_CSS = "TextView { overflow-y: auto; overflow-x: hidden; scrollbar-size: 1 1; }"

    def __init__(self, id: str | None = None, *, wrap: bool = True) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.wrap = wrap
        self._lines: list[TextLine] = []
        self._shown: list[TextLine] = []

    def show(self, lines: Sequence[TextLine]) -> None:
        """Show these lines and stay where one is."""
        legible: list[TextLine] = [[(visible(text), name) for text, name in line] for line in lines]
        if legible != self._lines:
            self._lines = legible
            before, size = self._shown, self.virtual_size
            self._wrap()
            self._repaint(before if size == self.virtual_size else None)

    def on_resize(self) -> None:
        """Wrap to the new width."""
        self._wrap()
        self._repaint(None)

    def _wrap(self) -> None:
        width = max(8, self.scrollable_content_region.width)
        self._shown = [part for line in self._lines for part in (wrapped(line, width) if self.wrap else [line])]
        longest = max((sum(cells(text) for text, _ in line) for line in self._shown), default=0)
        self.virtual_size = Size(longest if not self.wrap else width, len(self._shown))

    def _repaint(self, before: Sequence[TextLine] | None) -> None:
        """Paint anew the lines in view that say something else than before; None: all of them."""
        if before is None:
            self.refresh()
            return
        top, width = round(self.scroll_y), self.size.width
        changed = (place for place, (one, other) in enumerate(zip(before, self._shown, strict=True)) if one != other)
        dirty = [Region(0, place - top, width, 1) for place in changed if 0 <= place - top < self.size.height]
        if dirty:
            self.refresh(*dirty)

    def move(self, rows: int = 0, columns: int = 0) -> None:
        """Scroll."""
        self.scroll_to(x=self.scroll_x + 4 * columns, y=self.scroll_y + rows, animate=False, immediate=True)

    def move_to(self, index: int) -> None:
        """Scroll to a line; past the end stops there."""
        self.scroll_to(y=min(max(0, index), self.max_scroll_y), animate=False, immediate=True)

    @property
    def page(self) -> int:
        """How many lines are in view."""
        return max(1, self.scrollable_content_region.height)

    def render_line(self, y: int) -> Strip:
        """Paint one line."""
        palette = palette_of(self.app.theme)
        ground = self.background_colors[1].hex
        left, top = self.scroll_offset
        width = self.scrollable_content_region.width
        blank = style(palette.text, ground)
        index = y + top
        if index >= len(self._shown):
            return Strip.blank(width, blank)
        segments = [
            Segment(text, style(named_color(palette, name), ground,
                                bold=name == "accent"))
            for text, name in self._shown[index]
        ]  # fmt: skip
        return Strip(segments).crop_extend(left, left + width, blank)


def wrapped(line: TextLine, width: int) -> list[TextLine]:
    """Break a line into pieces of at most `width` cells, at spaces where there are, the colours kept.

    What follows a break is indented by two; a word that is longer than a line is cut.
    """
    rows: list[list[tuple[str, str]]] = [[]]
    left = width
    for text, name in line:
        rest = text
        while cells(rest) > left:
            room = fitting(rest, left)
            at = rest.rfind(" ", 0, room + 1)
            if at <= 0 and left == width - 2 * (len(rows) > 1):
                at = room  # nothing but this word fits into a whole line
            if at > 0:
                rows[-1].append((rest[:at], name))
            rest = rest[max(at, 0) :].lstrip(" ")
            rows.append([("  ", "")])
            left = width - 2
        rows[-1].append((rest, name))
        left -= cells(rest)
    return list(rows)
