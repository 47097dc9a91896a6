"""Two small dialogues: yes or no, and a line of text. Both show the command that does the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static


class ConfirmScreen(ModalScreen[bool]):
    """Asks before something is ended."""

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str, command: str) -> None:
        super().__init__()
        self.question = question
        self.command = command

    def compose(self) -> ComposeResult:
        """Show the question."""
        with Vertical(classes="dialogue"):
            yield Static(self.question, markup=False, classes="question")
            yield Static(f"$ {self.command}", markup=False, classes="command")
            yield Static("y yes   n no", markup=False, classes="keys")

    def action_answer(self, answer: bool) -> None:
        """Close with the answer."""
        self.dismiss(answer)


class PromptScreen(ModalScreen[str | None]):
    """Asks for a line of text; None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("tab", "complete", "complete", priority=True),
    ]

    def __init__(self, question: str, hint: str, value: str = "", choices: Sequence[str] = ()) -> None:
        """Ask; with `choices`, what is typed is completed to the first that begins so."""
        super().__init__()
        self.choices = choices
        self.question = question
        self.hint = hint
        self.value = value

    def compose(self) -> ComposeResult:
        """Show the question and the field."""
        with Vertical(classes="dialogue"):
            yield Static(self.question, markup=False, classes="question")
            suggester = SuggestFromList(self.choices, case_sensitive=False) if self.choices else None
            yield Input(self.value, select_on_focus=False, compact=True, suggester=suggester)
            yield Static(self.hint, markup=False, classes="keys")

    def action_complete(self) -> None:
        """Take what the field suggests."""
        self.query_one(Input).action_cursor_right()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the text."""
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """Close without."""
        self.dismiss(None)
