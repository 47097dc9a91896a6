"""Asks by which field the runs are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tui.filter_terms import FilterError, groupings, resolve
from tui.screens.confirm import PromptScreen

if TYPE_CHECKING:
    from storage.rows import RunRow
    from tui.app import MambaLab

HINT = "a key of the configuration, an axis, status, tags ...\ntab completes · enter groups, ends it where empty · esc leaves"
Group = Callable[[str, "Callable[[RunRow], Any] | None"], None]


def ask_for_grouping(lab: MambaLab, current: str, group: Group) -> None:
    """Ask for a field by its name, and group by what reads it from a run; by None where nothing was written."""
    fields, now = lab.snapshot.fields, lab.now

    def answer(text: str | None) -> None:
        if text is None:
            return
        if not text:
            group("", None)
            return
        try:
            read = resolve(text, 0, fields)
        except FilterError as error:
            lab.notify(str(error), title="group by", severity="error", markup=False)
            return
        group(text, lambda run: read(run, now()))

    lab.push_screen(PromptScreen("Group the runs by", HINT, current, groupings(fields)), answer)
