"""Choose the columns of the run table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widgets import SelectionList
from textual.widgets.selection_list import Selection

from tui.messages import Snapshot
from tui.widgets.run_table import available_columns


class TickList(SelectionList[str]):
    """A list to tick whose ticks are told apart by their letter as well: Textual's differ in colour alone."""

    def render_line(self, y: int) -> Strip:
        """Paint one line."""
        strip = super().render_line(y)
        place = self.scroll_offset.y + y
        if place >= self.option_count or self.get_option_at_index(place).value in self.selected:
            return strip
        side, tick, *rest = strip
        return Strip([side, Segment(" ", tick.style), *rest], strip.cell_length)


class ColumnsScreen(ModalScreen[list[str] | None]):
    """A list to tick; None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("enter", "take", "take", priority=True),
        Binding("j", "move(1)", "down"),
        Binding("k", "move(-1)", "up"),
    ]

    def __init__(self, snapshot: Snapshot, chosen: Sequence[str]) -> None:
        super().__init__()
        self.chosen = list(chosen)
        known = dict(available_columns(snapshot))
        # the chosen ones stand first, in their order, so that they are seen at once
        listed = [*self.chosen, *(key for key in known if key not in self.chosen)]
        self.choices = [Selection(f"{key.partition(':')[2] or key}  ({known.get(key, 'gone')})", key, key in self.chosen)
                        for key in listed]  # fmt: skip

    def compose(self) -> ComposeResult:
        """Show the list."""
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = "Columns"
            sheet.border_subtitle = "space ticks, enter takes, esc leaves; < > move a column in the table"
            yield TickList(*self.choices)

    def action_move(self, by: int) -> None:
        """Move in the list."""
        listed = self.query_one(SelectionList)
        listed.action_cursor_down() if by > 0 else listed.action_cursor_up()

    def action_take(self) -> None:
        """Close with the ticked ones: those that were shown before keep their order."""
        ticked = set(self.query_one(SelectionList).selected)
        kept = [key for key in self.chosen if key in ticked]
        added = [choice.value for choice in self.choices if choice.value in ticked and choice.value not in kept]
        self.dismiss([*kept, *added])

    def action_leave(self) -> None:
        """Close without."""
        self.dismiss(None)
