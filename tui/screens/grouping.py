"""Asks by which field the runs are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tui.filter_terms import groupings, resolve
from tui.screens.confirm import PromptScreen

if TYPE_CHECKING:
    from storage.rows import RunRow
    from tui.app import MambaLab

HINT = "a key of the configuration, an axis, status, tags ...\ntab completes · enter groups, ends it where empty · esc leaves"
Group = Callable[[str, "Callable[[RunRow], Any] | None"], None]


def ask_for_grouping(lab: MambaLab, current: str, group: Group) -> None:
    """Ask for a field by its name, and group by what reads it from a run; by None where nothing was written."""

    def answer(text: str | None) -> None:
        if text is not None:
            lab.attempt("group by", lambda: group_by(lab, text, group))

    lab.push_screen(PromptScreen("Group the runs by", HINT, current, groupings(lab.snapshot.fields)), answer)


def group_by(lab: MambaLab, name: str, group: Group) -> None:
    """Group by a field; by none where the name is empty. Raises FilterError where no run has it."""
    if not name:
        group("", None)
        return
    read, now = resolve(name, 0, lab.snapshot.fields), lab.now
    group(name, lambda run: read(run, now()))
