"""The keys of a screen, from the table that also dispatches them; and the log of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from tui.keys import Situation, actions, bindings, key_label
from tui.widgets.command_log import command_lines
from tui.widgets.text_view import TextLine, TextView

if TYPE_CHECKING:
    from tui.app import MambaLab

FILTER_HELP = (
    "Filters: words match name, id, ablation, trial and tags. field=value, != < <= > >=, ~ for a regular expression;",
    "and, or, not, ( ). Fields are a run's own (status, step, age, ...), keys of its configuration (model.d_state or",
    "d_state), metrics (valid/accuracy) and axes: status=failed and model.d_state>8 and lr<1e-3, age<2h, loss=nan",
)


def help_lines(scope: str, situation: Situation) -> list[TextLine]:
    """Return the help of a screen: every action, its keys, and why it cannot be done now."""
    lines: list[TextLine] = []
    group = ""
    for action in actions(scope):
        if action.group != group:
            group = action.group
            lines += [[] if lines else [("", "")], [(group, "accent")]]
        keys = " ".join(key_label(key) for key in action.keys)
        reason = action.enabled(situation)
        line = [(f"  {keys:<14}", "muted" if reason else "best"), (f"{action.help}", "muted" if reason else "")]
        lines.append([*line, (f"  ({reason})", "faint")] if reason else line)
    if scope == "runs":
        lines += [[], *([(text, "muted")] for text in FILTER_HELP)]
    return lines


class _Sheet(ModalScreen[None]):
    """A sheet of text over the screen."""

    SCOPE: ClassVar[str] = "help"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("help")]
    AUTO_FOCUS = ""

    def title_text(self) -> str:
        """Return the title."""
        return ""

    def lines(self) -> list[TextLine]:
        """Return the text."""
        return []

    def compose(self) -> ComposeResult:
        """Show the text."""
        with Vertical(classes="sheet") as sheet:
            sheet.border_title = self.title_text()
            sheet.border_subtitle = "esc closes"
            yield TextView()

    def on_mount(self) -> None:
        """Fill in the text."""
        self.query_one(TextView).show(self.lines())

    def action_perform(self, name: str) -> None:
        """Scroll or close."""
        view = self.query_one(TextView)
        moves = {"down": 1, "up": -1, "page_down": view.page - 1, "page_up": 1 - view.page}
        if name in moves:
            view.move(moves[name])
        elif name in ("top", "bottom"):
            view.move_to(0 if name == "top" else 10**9)
        elif name == "theme":
            cast("MambaLab", self.app).toggle_theme()
        elif name == "quit":
            self.app.exit()
        else:
            self.dismiss()


class HelpScreen(_Sheet):
    """All keys of a screen."""

    def __init__(self, scope: str, situation: Situation) -> None:
        super().__init__()
        self.scope = scope
        self.situation = situation

    def title_text(self) -> str:
        """Return the title."""
        return f"Keys: {self.scope}"

    def lines(self) -> list[TextLine]:
        """Return the keys."""
        return help_lines(self.scope, self.situation)


class CommandsScreen(_Sheet):
    """What was done here, as commands of the shell."""

    def title_text(self) -> str:
        """Return the title."""
        return "What was done, as commands"

    def lines(self) -> list[TextLine]:
        """Return the log."""
        return command_lines(cast("MambaLab", self.app).commands)
