"""The line after `:`, at the foot of the screen: what is typed, what it would do, and why that cannot be done now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input

from tui.commanding import Choices, commands, complete, matching
from tui.keys import Action, Situation, key_label
from tui.widgets.status_bar import TextBar

SHOWN = 6  # names that are offered at once


class _Completions(Suggester):
    """Goes on from what is typed."""

    def __init__(self, listed: Sequence[Action], choices: Choices) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self.listed = listed
        self.choices = choices

    async def get_suggestion(self, value: str) -> str | None:
        """Return the whole text that is meant, or nothing."""
        return complete(value, self.listed, self.choices)


class CommandScreen(ModalScreen[str | None]):
    """Asks for a command; None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave"),
        Binding("tab", "complete", "complete", priority=True),
    ]

    def __init__(self, listed: Sequence[Action], situation: Situation, choices: Choices) -> None:
        super().__init__()
        self.listed = listed
        self.situation = situation
        self.choices = choices

    def compose(self) -> ComposeResult:
        """Show what it would do above what is typed."""
        with Vertical():
            yield TextBar(id="meaning")
            yield Input(placeholder="an action, such as filter status=failed", compact=True,
                        suggester=_Completions(self.listed, self.choices))  # fmt: skip

    def on_mount(self) -> None:
        """Say what there is."""
        self._explain("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say what it would do."""
        self._explain(event.value)

    def _explain(self, text: str) -> None:
        word, _, argument = text.partition(" ")
        found = matching(word, self.listed) if word else commands(self.listed)
        pieces: list[tuple[str, str]] = [(" : ", "accent")]
        if len(found) == 1:
            action = found[0]
            reason = action.enabled(self.situation)
            pieces += [(f"{action.word} {action.argument}  ", "best"), (action.help, "muted" if reason else "")]
            pieces.append(
                (f"  ({reason})" if reason else f"   {key_label(action.keys[0])}", "bad" if reason else "muted")
            )
            offered = [name for name in self.choices(action) if name.casefold().startswith(argument.casefold())]
            pieces.append((f"   {'  '.join(offered[:SHOWN])}" if offered and " " in text else "", "accent"))
        elif found:
            names = "  ".join(action.word for action in found[: 2 * SHOWN])
            pieces += [(names, ""), (f"  and {len(found) - 2 * SHOWN} more" if len(found) > 2 * SHOWN else "", "muted")]
        else:
            pieces.append((f"nothing here is called {word!r}", "bad"))
        pieces.append(("   tab completes, esc leaves", "faint"))
        self.query_one(TextBar).show(*pieces)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the text."""
        self.dismiss(event.value.strip() or None)

    def action_complete(self) -> None:
        """Take what the field suggests."""
        self.query_one(Input).action_cursor_right()

    def action_leave(self) -> None:
        """Close without."""
        self.dismiss(None)
