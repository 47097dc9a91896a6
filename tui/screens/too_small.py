"""Stands in front while the terminal is too small for any layout, and leaves by itself once it is not."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static


class TooSmallScreen(Screen[None]):
    """Says which size is needed, and which there is."""

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "app.quit", "quit")]
    DEFAULT_CSS = "TooSmallScreen { align: center middle; } TooSmallScreen Static { width: auto; text-align: center; }"

    def __init__(self, least: tuple[int, int]) -> None:
        super().__init__()
        self.least = least

    def compose(self) -> ComposeResult:
        """Show the words."""
        yield Static(markup=False)

    def on_resize(self) -> None:
        """Say how much is missing."""
        size = self.app.size
        words = f"Resize to {self.least[0]}x{self.least[1]}\n\nthis is {size.width}x{size.height}\nq quits; runs go on"
        self.query_one(Static).update(words)
