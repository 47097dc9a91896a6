"""A table that paints only the rows in view: 10,000 rows cost as much as 40.

Textual's own DataTable measures every cell of every row. Here a row is formatted when its line is painted; sorting and
selecting work on the objects themselves. The cursor and the marks belong to a row's key, not to its place, so they stay
with their row while rows come, go and move. Grouped rows stand below a head for each group, which the cursor passes over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from storage.encoding import visible
from tui.theme import Palette, palette_of, style
from tui.widgets.column import Column, Piece, Row, share_room
from tui.widgets.order import Order, Section, Sections, grouped
from tui.widgets.table_lines import header_line, row_line


class VirtualTable(ScrollView, Generic[Row], inherit_bindings=False):
    """Rows in columns with a cursor, marks, and an order."""

    DEFAULT_CSS = "VirtualTable { overflow-x: auto; overflow-y: scroll; scrollbar-size: 0 1; }"

    class Moved(Message):
        """The cursor is on another row, or on none."""

        def __init__(self, table: VirtualTable[Any]) -> None:
            super().__init__()
            self.table = table

    class Opened(Message):
        """The row under the cursor was opened with the mouse."""

        def __init__(self, table: VirtualTable[Any]) -> None:
            super().__init__()
            self.table = table

    class Sorted(Message):
        """The order has changed."""

        def __init__(self, table: VirtualTable[Any]) -> None:
            super().__init__()
            self.table = table

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        key_of: Callable[[Row], str],
        *,
        now: Callable[[], float],
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.columns = list(columns)
        self.key_of = key_of
        self.now = now
        self.rows: list[Row] = []
        self.marks: set[str] = set()
        self.group_of: Callable[[Row], Any] | None = None
        self.sections: Sections[Row] = Sections()
        self.cursor = 0
        self.column = 0
        self.sort_key = ""
        self.descending = True
        self._order: Order[Row] = Order()
        self._key = ""
        self.wanted: dict[str, int] = {}
        self._widths: list[int] = []
        self._painted: dict[int, tuple[Row | Section[Row], Strip]] = {}

    def on_mount(self) -> None:
        """Learn the widths."""
        self._measure()

    def on_resize(self, _event: events.Resize) -> None:
        """Share the new width."""
        self._measure()
        self._show_cursor()

    def set_columns(self, columns: Sequence[Column[Row]]) -> None:
        """Show other columns."""
        self.columns = list(columns)
        self.column = min(self.column, len(self.columns) - 1)
        self._measure()
        self.refresh()

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows, in the table's order; the cursor stays with its row, or at its place if that is gone."""
        column = next((column for column in self.columns if column.key == self.sort_key), None)
        self.rows = self._order.apply(rows, column, descending=self.descending)
        if self.group_of is None:
            self.sections = Sections()
        else:
            self.sections = grouped(self.rows, self.group_of, self.sections)
            self.rows = [row for section in self.sections.sections for row in section.rows]
        self._reanchor()
        self._measure()
        self.repaint_changed()

    def forget_order(self) -> None:
        """Work the order out anew at the next rows: what a column says of the same row has changed."""
        self._order = Order()

    def _reanchor(self) -> None:
        if not self.rows:
            self.cursor = 0
            return
        self.cursor = min(self.cursor, len(self.rows) - 1)
        if self._key and self.key_of(self.rows[self.cursor]) != self._key:
            found = next((index for index, row in enumerate(self.rows) if self.key_of(row) == self._key), None)
            self.cursor = self.cursor if found is None else found
        self._key = self.key_of(self.rows[self.cursor])

    @property
    def selected(self) -> Row | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def select(self, key: str) -> bool:
        """Put the cursor on the row with a key; False where there is none."""
        for index, row in enumerate(self.rows):
            if self.key_of(row) == key:
                self.move_to(index)
                return True
        return False

    def move(self, rows: int = 0, columns: int = 0) -> None:
        """Move the cursor by rows or the column cursor by columns, stopping at the ends."""
        if columns and self.columns:
            self.column = max(0, min(len(self.columns) - 1, self.column + columns))
            self._show_column()
            self.refresh()
        if rows:
            self.move_to(self.cursor + rows)

    def move_to(self, index: int) -> None:
        """Put the cursor on a row by its place."""
        if not self.rows:
            return
        before, top = self.cursor, round(self.scroll_y)
        self.cursor = max(0, min(len(self.rows) - 1, index))
        self._key = self.key_of(self.rows[self.cursor])
        self._show_cursor()
        if round(self.scroll_y) == top:
            width = self.size.width
            lines = (self.sections.line_of(row) for row in (before, self.cursor))
            self.refresh(*(Region(0, line - top + 1, width, 1) for line in lines))
        self.post_message(self.Moved(self))

    @property
    def page(self) -> int:
        """How many rows are in view."""
        return max(1, self.scrollable_content_region.height - 1)

    def sort_by(self, key: str, *, descending: bool | None = None) -> None:
        """Order by a column; by the one that orders already, the other way round."""
        column = next((column for column in self.columns if column.key == key), None)
        if column is None:
            return
        turned = not self.descending if key == self.sort_key else column.descending
        self.sort_key, self.descending = key, turned if descending is None else descending
        self.set_rows(self.rows)
        self._show_cursor()
        self.refresh()
        self.post_message(self.Sorted(self))

    def toggle_mark(self) -> None:
        """Mark the row under the cursor or take its mark off, and go one further."""
        if self.selected is not None:
            self.marks ^= {self._key}
            self.move(1)
            self.refresh()

    def marked(self, rows: Collection[Row]) -> list[Row]:
        """Return those of some rows that are marked."""
        return [row for row in rows if self.key_of(row) in self.marks] if self.marks else []

    def _measure(self) -> None:
        widths = share_room(self.columns, self.wanted, self.scrollable_content_region.width - 1)
        if widths != self._widths:
            self._widths = widths
            self.refresh()
        self.virtual_size = Size(sum(self._widths) + len(self._widths) + 1, len(self.rows) + len(self.sections) + 1)

    def _show_cursor(self) -> None:
        top, height = round(self.scroll_y), self.page
        line = self.sections.line_of(self.cursor)
        first = line - (self.sections.at(line - 1)[0] is not None)  # with the head of its section where that is above
        if first < top:
            self.scroll_to(y=first, animate=False, immediate=True)
        elif line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False, immediate=True)

    def _show_column(self) -> None:
        start = sum(self._widths[: self.column]) + self.column
        end = start + self._widths[self.column] + 2
        left, width = round(self.scroll_x), self.scrollable_content_region.width
        if start < left or self.column == 0:
            self.scroll_to(x=start, animate=False, immediate=True)
        elif end > left + width:
            self.scroll_to(x=end - width, animate=False, immediate=True)

    def repaint_changed(self, *, all_rows: bool = False) -> None:
        """Repaint the lines in view whose row is another object than before, or with `all_rows` whose text has changed.

        Most updates of a store are about rows out of view: painting and sending the others again would make keys wait.
        """
        if not self.is_attached:
            return
        palette, top, dirty = palette_of(self.app.theme), round(self.scroll_y), []
        for y in range(1, self.scrollable_content_region.height):
            item = self._item(y - 1 + top)
            before, strip = self._painted.get(y, (None, None))
            same = before is item and (item is None or not all_rows or strip == self._strip(y - 1 + top, palette))
            if not same:
                dirty.append(Region(0, y, self.size.width, 1))
        if dirty:
            self.refresh(*dirty)

    def repaint_rows(self, keys: Collection[str]) -> None:
        """Repaint the lines in view of some rows: what a column says of them has changed."""
        if not keys or not self.is_attached:
            return
        top, width = round(self.scroll_y), self.size.width
        places = ((y, self.sections.at(y - 1 + top)) for y in range(1, self.scrollable_content_region.height))
        dirty = [
            Region(0, y, width, 1)
            for y, (section, index) in places
            if section is None and index < len(self.rows) and self.key_of(self.rows[index]) in keys
        ]
        if dirty:
            self.refresh(*dirty)

    def render_line(self, y: int) -> Strip:
        """Paint one line: the header, a row, or nothing."""
        palette = palette_of(self.app.theme)
        left, top = self.scroll_offset
        width = self.scrollable_content_region.width
        if y == 0:
            strip = self._header(palette)
        else:
            item = self._item(y - 1 + top)
            if item is None:
                self._painted.pop(y, None)
                return Strip.blank(width, self.rich_style)
            strip = self._strip(y - 1 + top, palette)
            self._painted[y] = item, strip
            if isinstance(item, Section):
                ground = style(palette.text, palette.surface)
                if strip.cell_length > width:  # a number that is cut without a sign would be read as another
                    strip = Strip.join([strip.crop(0, width - 1), Strip([Segment("…", ground)], 1)])
                return strip.crop_extend(0, width, ground)
        strip = strip.crop_extend(left, left + width, self._ground(self.sections.at(y - 1 + top)[1], palette))
        return self._more(strip, palette) if y == 0 else strip

    def _item(self, line: int) -> Row | Section[Row] | None:
        section, index = self.sections.at(line)
        return section if section is not None else self.rows[index] if index < len(self.rows) else None

    def _strip(self, line: int, palette: Palette) -> Strip:
        section, index = self.sections.at(line)
        if section is None:
            return self._line(index, palette)
        pieces = self.head(section, palette)
        return Strip([Segment(visible(text), style(ink or palette.text, palette.surface)) for text, ink in pieces])

    def head(self, section: Section[Row], palette: Palette) -> Sequence[Piece]:
        """Return what the line above a section says."""
        return ((f" {section.title}  ", palette.accent), (f"{len(section.rows)}", palette.muted))

    def _ground(self, index: int, palette: Palette) -> Style:
        return style(palette.text, palette.cursor if index == self.cursor else palette.background)

    def _header(self, palette: Palette) -> Strip:
        order = (self.sort_key, "▼" if self.descending else "▲")
        room = self.scrollable_content_region.width
        return header_line(self.columns, self._widths, palette, at=self.column, order=order, room=room)

    def _more(self, strip: Strip, palette: Palette) -> Strip:
        """Say at the header's ends that there are more columns than fit."""
        width = self.scrollable_content_region.width
        ink = style(palette.best, palette.panel, bold=True)
        if self.scroll_x > 0:
            strip = Strip.join([Strip([Segment("‹", ink)], 1), strip.crop(1, width)])
        if self.virtual_size.width - 1 > round(self.scroll_x) + width:
            strip = Strip.join([strip.crop(0, width - 1), Strip([Segment("›", ink)], 1)])
        return strip

    def _line(self, index: int, palette: Palette) -> Strip:
        row = self.rows[index]
        marked = self.key_of(row) in self.marks
        return row_line(
            self.columns, self._widths, row, palette, now=self.now(), here=index == self.cursor, marked=marked
        )

    def on_click(self, event: events.Click) -> None:
        """Sort by a clicked title; select a clicked row; open the row under the cursor at a double click."""
        x, y = event.x + round(self.scroll_x), event.y
        if y == 0:
            start = 1
            for index, width in enumerate(self._widths):
                if start <= x < start + width + 1:
                    self.column = index
                    self.sort_by(self.columns[index].key)
                start += width + 1
            return
        section, index = self.sections.at(y - 1 + round(self.scroll_y))
        if section is None and index < len(self.rows):
            self.move_to(index)
            if event.chain == 2:
                self.post_message(self.Opened(self))
