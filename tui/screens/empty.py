"""What stands in place of a list while there is nothing to list."""

from __future__ import annotations

from tui.messages import UNREADABLE, Snapshot, StoreState
from tui.widgets.text_view import TextLine

EMPTY = (
    "No runs yet. In another terminal, from this folder:",
    "mambalab submit demo",
    "It returns at once, and the runs appear here. `mambalab presets` lists the ablations that come along.",
)


def empty_lines(snapshot: Snapshot, home: str) -> list[TextLine]:
    """Return what stands in place of the table while there is nothing to list."""
    state = snapshot.state
    if state is StoreState.LOADING:
        return [[("Reading the store ...", "muted")]]
    if state in UNREADABLE and state is not StoreState.MISSING:
        return [[("The store cannot be shown", "bad")], [], [(snapshot.message, "")],
                [], [("It is tried again every moment; this screen goes on by itself.", "muted")]]  # fmt: skip
    head = f"There is no store at {home} yet." if state is StoreState.MISSING else f"The store at {home} is empty."
    return [[(head, "")], [], [(EMPTY[0], "muted")], [], [(f"    {EMPTY[1]}", "accent")], [], [(EMPTY[2], "muted")]]
