"""The one table of what keys do: it feeds dispatch, the footer, the `?` help and the command palette.

Each action names the screens it belongs to, its keys, a label for the footer, a sentence for the help, and a condition
that returns why it cannot be done now; an empty string means that it can. A screen carries an action out in its method
`do_<name>`. With `:` it is called by its name; what `argument` then says stands behind the name and goes to the screen's
`take_<name>`.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding

from tui.situation import (
    Condition,
    Situation,
    always,
    can_cancel,
    can_clone,
    can_compare,
    can_extend,
    can_prioritise,
    can_resume,
    can_retry,
    can_write,
    has_ablation,
    has_axes,
    has_marks,
    has_metrics,
    on_tab,
    some_run,
)

__all__ = ["ACTIONS", "KEY_NAMES", "Action", "Situation", "actions", "bindings", "key_label"]

LISTS = ("runs", "ablations", "ablation", "run", "compare", "sql", "cluster", "lens")
WITH_RUNS = ("runs", "ablation", "run", "cluster")
EVERYWHERE = (*LISTS, "help")
CURVES = ("run", "compare")
ELSEWHERE = ("runs", "run", "ablations", "ablation", "compare")


@dataclass(frozen=True, slots=True)
class Action:
    """Something a key does."""

    name: str
    keys: tuple[str, ...]
    label: str
    help: str
    where: tuple[str, ...]
    group: str
    enabled: Condition = always
    footer: bool = False
    argument: str = ""

    @property
    def word(self) -> str:
        """The action's name as one writes it."""
        return self.name.replace("_", "-")


def _action(
    name: str, keys: str, label: str, help_text: str, where: tuple[str, ...], group: str, **more: object
) -> Action:
    enabled = more.get("enabled", always)
    assert callable(enabled)
    footer, argument = bool(more.get("footer", False)), str(more.get("argument", ""))
    return Action(name, tuple(keys.split()), label, help_text, where, group, enabled, footer, argument)


ON_CURVES = on_tab("curves", "system")
ON_LOG = on_tab("log")
TABLE_SCOPES = ("runs", "ablations", "sql")

ACTIONS: tuple[Action, ...] = (
    _action("down", "j down", "down", "Next row, cell or chart", EVERYWHERE, "Move"),
    _action("up", "k up", "up", "Previous row, cell or chart", EVERYWHERE, "Move"),
    _action("left", "h left", "left", "Previous column or cell; pan; move the crosshair", LISTS, "Move"),
    _action("right", "l right", "right", "Next column or cell; pan; move the crosshair", LISTS, "Move"),
    _action("page_down", "ctrl+d pagedown", "page down", "A page further", EVERYWHERE, "Move"),
    _action("page_up", "ctrl+u pageup", "page up", "A page back", EVERYWHERE, "Move"),
    _action("top", "g home", "top", "First row", EVERYWHERE, "Move"),
    _action("bottom", "G end", "bottom", "Last row", EVERYWHERE, "Move"),
    _action("open", "enter", "open", "Open what is under the cursor; enlarge a chart", LISTS, "Move", footer=True,
            argument="[RUN|ABLATION]"),
    _action("filter", "slash", "filter", "Filter the runs: words, or status=failed and lr<1e-3", ("runs",), "List",
            footer=True, argument="[FILTER]"),
    _action("mark", "space", "mark", "Mark or unmark the run; on an ablation, the cell", ("runs", "ablation"), "List",
            enabled=some_run, footer=True),
    _action("unmark", "u", "unmark all", "Forget all marks", ("runs", "ablation"), "List", enabled=has_marks),
    _action("compare", "c", "compare", "Compare the marked runs; on an ablation, the marked cells or all", ("runs", "ablation"),
            "List", enabled=can_compare, footer=True),
    _action("sort", "s", "sort", "Sort by the column under the cursor; again: other way round", TABLE_SCOPES, "List",
            footer=True, argument="[COLUMN]"),
    _action("reverse", "S", "reverse", "Turn the order round", TABLE_SCOPES, "List"),
    _action("columns", "C", "columns", "Choose the columns", ("runs",), "List", footer=True),
    _action("move_left", "less_than_sign", "column left", "Move the column to the left", ("runs",), "List"),
    _action("move_right", "greater_than_sign", "column right", "Move the column to the right", ("runs",), "List"),
    _action("narrower", "minus", "narrower", "Make the column narrower", ("runs",), "List"),
    _action("wider", "plus equals_sign", "wider", "Make the column wider", ("runs",), "List"),
    _action("group_by", "b", "group by", "Group by a key of the configuration, an axis or another field; nothing ends it",
            ("runs", "compare"), "List", footer=True, argument="[FIELD]"),
    _action("archived", "Z", "archived", "Show or hide archived runs", ("runs",), "List"),
    _action("ablation", "o", "ablation", "Open the run's ablation", ("runs", "run", "cluster"), "List", enabled=has_ablation,
            footer=True),
    _action("curves", "1", "curves", "Tab: the metrics as curves", ("run",), "Tabs"),
    _action("config", "2", "config", "Tab: what the run computes", ("run",), "Tabs"),
    _action("log", "3", "log", "Tab: what the worker printed, live", ("run",), "Tabs"),
    _action("events", "4", "events", "Tab: attempts, events and requests", ("run",), "Tabs"),
    _action("origin", "5", "origin", "Tab: facts and provenance", ("run",), "Tabs"),
    _action("system", "6", "system", "Tab: what it uses of its machine: CPU, memory, GPU", ("run",), "Tabs"),
    _action("previous_run", "left_square_bracket", "previous run", "The run above in the list", ("run",), "Tabs"),
    _action("next_run", "right_square_bracket", "next run", "The run below in the list", ("run",), "Tabs"),
    _action("next_chart", "tab", "next chart", "Next chart", CURVES, "Curves", enabled=ON_CURVES),
    _action("previous_chart", "shift+tab", "previous chart", "Previous chart", CURVES, "Curves", enabled=ON_CURVES),
    _action("x_axis", "x", "x axis", "x is the step, the tokens seen, or the time", CURVES, "Curves",
            enabled=ON_CURVES, footer=True, argument="[step|tokens|time]"),
    _action("log_y", "L", "log y", "Logarithmic y axis", CURVES, "Curves", enabled=ON_CURVES, footer=True),
    _action("log_x", "ctrl+l", "log x", "Logarithmic x axis", CURVES, "Curves", enabled=ON_CURVES),
    _action("smooth", "e", "smooth", "More smoothing, then none", CURVES, "Curves", enabled=ON_CURVES, footer=True, argument="[0..0.99]"),
    _action("zoom_in", "plus equals_sign", "zoom in", "Zoom in along x", CURVES, "Curves", enabled=ON_CURVES),
    _action("zoom_out", "minus", "zoom out", "Zoom out along x", CURVES, "Curves", enabled=ON_CURVES),
    _action("reset", "0", "reset", "Show all of it again", CURVES, "Curves", enabled=ON_CURVES),
    _action("inspect", "i", "inspect", "Crosshair: values at one place", CURVES, "Curves", enabled=ON_CURVES,
            footer=True),
    _action("lens", "M", "lens", "Mamba lens: dt, memory, state and gate of each layer as it trains", WITH_RUNS, "Curves",
            enabled=some_run),
    _action("follow", "f", "follow", "Follow the end of the log", ("run",), "Curves", enabled=ON_LOG),
    _action("metric", "m", "metric", "Next metric or quantity", ("ablation", "lens"), "Matrix", enabled=has_metrics,
            footer=True, argument="[METRIC]"),
    _action("swap", "x", "swap axes", "Other axes as rows and columns", ("ablation",), "Matrix", enabled=has_axes,
            footer=True),
    _action("effects", "f", "effects", "Main effect of each axis, instead of the seeds", ("ablation",), "Matrix",
            footer=True),
    _action("export", "e", "export", "Write the table as Markdown, LaTeX and CSV", ("ablation",), "Matrix",
            footer=True),
    _action("group", "m", "means", "Mean and spread of each group, or each run", ("compare",), "Curves", footer=True),
    _action("differences", "d", "differences", "What differs in the configurations", ("compare",), "Curves",
            footer=True),
    _action("cancel", "X", "cancel", "Cancel the run, or all marked ones", WITH_RUNS, "Control", enabled=can_cancel,
            footer=True),
    _action("retry", "r", "retry", "Queue the run again; wake a queue that no controller works on", WITH_RUNS, "Control",
            enabled=can_retry, footer=True),
    _action("clone", "E", "clone", "Edit a copy of the run in $EDITOR and queue that", WITH_RUNS, "Control",
            enabled=can_clone),
    _action("resume", "R", "resume", "Queue a new run that goes on from one of the run's checkpoints", WITH_RUNS, "Control",
            enabled=can_resume, argument="[STEP KEY=VALUE...]"),
    _action("add_seeds", "plus", "add seeds", "Queue the ablation with further seeds", ("ablation", "ablations"), "Control",
            enabled=can_extend, footer=True, argument="[N|A,B,...]"),
    _action("priority", "p", "priority", "Change the place in the queue", WITH_RUNS, "Control",
            enabled=can_prioritise, argument="[N]"),
    _action("tag", "t", "tag", "Put tags on the run: word, or -word to take it off", WITH_RUNS, "Control",
            enabled=can_write, argument="[WORD|-WORD...]"),
    _action("note", "n", "note", "Write a note on the run", WITH_RUNS, "Control", enabled=can_write, argument="[TEXT]"),
    _action("archive", "z", "archive", "Archive the run, or bring it back", WITH_RUNS, "Control", enabled=can_write),
    _action("copy_id", "y", "copy id", "Copy the id", (*WITH_RUNS, "ablations"), "Control"),
    _action("copy_command", "Y", "copy command", "Copy the command that shows this", (*WITH_RUNS, "ablations"),
            "Control"),
    _action("ablations", "a", "ablations", "All ablations", ("runs", "run", "compare", "ablation"), "Go",
            footer=True, argument="[NAME]"),
    _action("cluster", "w", "cluster", "Machines and GPUs with who holds them, and why the queue waits", ELSEWHERE, "Go",
            footer=True),
    _action("sql", "Q", "SQL", "Ask the store in SQL", (*ELSEWHERE, "cluster"), "Go", argument="[QUERY]"),
    _action("command", "colon", "command", "Call an action by its name: filter status=failed, sort age, open ID", LISTS, "Go"),
    _action("commands", "at", "commands", "What was done, as commands", LISTS, "Go"),
    _action("theme", "T", "theme", "Light or dark", EVERYWHERE, "Go", argument="[dark|light]"),
    _action("palette", "ctrl+p", "palette", "Find an action by name", LISTS, "Go"),
    _action("help", "question_mark", "help", "All keys of this screen", EVERYWHERE, "Go", footer=True),
    _action("back", "escape", "back", "One layer out", EVERYWHERE, "Go"),
    _action("quit", "q", "quit", "Leave; runs go on", EVERYWHERE, "Go", footer=True),
)  # fmt: skip

KEY_NAMES = {
    "slash": "/", "question_mark": "?", "colon": ":", "at": "@", "plus": "+", "minus": "-", "equals_sign": "=",
    "less_than_sign": "<", "greater_than_sign": ">", "left_square_bracket": "[", "right_square_bracket": "]",
    "escape": "esc", "pagedown": "pgdn", "pageup": "pgup", "space": "space", "down": "↓", "up": "↑", "left": "←",
    "right": "→", "shift+tab": "shift+tab",
}  # fmt: skip


def actions(scope: str) -> tuple[Action, ...]:
    """Return the actions of a screen, in the table's order."""
    return tuple(action for action in ACTIONS if scope in action.where)


def bindings(scope: str) -> list[Binding]:
    """Return a screen's bindings for Textual; all of them dispatch to `action_perform`."""
    return [Binding(key, f"perform('{action.name}')", action.label, show=False)
            for action in actions(scope) for key in action.keys]  # fmt: skip


def key_label(key: str) -> str:
    """Return a key as a person reads it."""
    return KEY_NAMES.get(key, key)
