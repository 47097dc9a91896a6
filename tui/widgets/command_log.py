"""What was done in the terminal UI, and the command that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from tui.format import clock_time
from tui.widgets.text_view import TextLine


@dataclass(frozen=True, slots=True)
class Done:
    """An action that was carried out, or failed with an error."""

    at: float
    what: str
    command: str
    error: str = ""


def command_lines(done: Sequence[Done]) -> list[TextLine]:
    """Return the log as text, newest first."""
    if not done:
        return [[("Nothing yet. Cancel, retry, tag, note, archive and export are listed here.", "muted")]]
    lines: list[TextLine] = []
    for entry in reversed(done):
        lines.append([(f"{clock_time(entry.at)[-8:]} ", "muted"), (entry.what, "failed" if entry.error else "")])
        prompt = "" if entry.command.startswith("#") else "$ "
        lines.append([(f"         {prompt}{entry.command}", "accent")])
        if entry.error:
            lines.append([(f"         {entry.error}", "failed")])
    return lines


def command(*words: str) -> str:
    """Return a `mambalab` command line, quoted for the shell."""
    return shlex.join(["mambalab", *words])
