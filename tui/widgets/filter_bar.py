"""The line in which the runs are filtered: what matches is counted as one types, and a mistake is shown in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message

from tui.filter import Fields, Filter, FilterError, compile_filter
from tui.widgets.status_bar import TextBar

if TYPE_CHECKING:
    from textual.widgets import Input


class FilterBar(Horizontal):
    """A field and what it means. Posts a filter whenever the text is one."""

    DEFAULT_CSS = """
    FilterBar { height: 2; display: none; layout: vertical; }
    FilterBar.open { display: block; }
    FilterBar Input { height: 1; border: none; padding: 0 1; background: $surface; }
    """

    class Changed(Message):
        """The text is a filter."""

        def __init__(self, found: Filter) -> None:
            super().__init__()
            self.filter = found

    class Left(Message):
        """The field was left with enter; the filter stays."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: Fields | None = None
        self.error: FilterError | None = None
        self._field: Input | None = None

    def compose(self) -> ComposeResult:
        """Put the meaning below the field, which is made when it is first asked for."""
        yield TextBar(id="meaning")

    @property
    def text(self) -> str:
        """What is typed."""
        return "" if self._field is None else self._field.value

    def open(self, fields: Fields, text: str | None = None) -> None:
        """Show the field and write in it; with a text, put that into it and stay out of it."""
        self.fields = fields
        self.add_class("open")
        if self._field is None:
            from textual.widgets import Input  # only now: the first paint waits for imports

            hint = "words, or status=failed and d_state>8 and lr<1e-3, age<2h"
            self._field = Input(compact=True, placeholder=hint, select_on_focus=False)
            self.mount(self._field, before=0)
        if text is None:
            self._field.focus()
        else:
            self._field.value = text

    def close(self) -> None:
        """Hide the field and forget the filter."""
        if self._field is not None:
            self._field.value = ""
        self.remove_class("open")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Understand the text, or show where it cannot be."""
        event.stop()
        try:
            found = compile_filter(event.value, self.fields)
        except FilterError as error:
            self.error = error
            pointer = " " * (1 + error.position) + "↑ "
            self.query_one(TextBar).show((pointer, "bad"), (str(error), "bad"))
            found = compile_filter("")  # until it is understood, nothing is hidden
        else:
            self.error = None
        self.post_message(self.Changed(found))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Leave the field; the filter stays."""
        event.stop()
        self.post_message(self.Left())

    def count(self, matching: int, total: int) -> None:
        """Say how many runs match."""
        if self.error is None:
            self.query_one(TextBar).show((f" {matching} of {total} runs", "good" if matching else "warning"),
                                         ("   enter keeps the filter, esc takes it off", "muted"))  # fmt: skip
