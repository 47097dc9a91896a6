"""The line above a screen, which says where one is and how the store is, and the line below, which says what keys do."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from storage.cluster import Standing
from storage.encoding import visible
from tui.cells import cells, fit
from tui.keys import Action, Situation, key_label
from tui.messages import Snapshot, StoreState
from tui.theme import STATUS_GLYPHS, Palette, named_color, palette_of, style

ALWAYS = ("help", "quit")
STORE_WORDS = {
    StoreState.LOADING: "reading",
    StoreState.MISSING: "no store",
    StoreState.EMPTY: "empty",
    StoreState.LOCKED: "! locked, last answer shown",
    StoreState.NEWER: "! newer schema",
    StoreState.OLDER: "! older schema",
    StoreState.BROKEN: "! cannot be read",
}


TROUBLE = {Standing.DOWN: "cluster down", Standing.SILENT: "controller silent"}


def store_words(snapshot: Snapshot, palette: Palette) -> tuple[str, str]:
    """Return how the store is in a few words, and their colour."""
    if snapshot.state is not StoreState.READY:
        warn = snapshot.state not in (StoreState.LOADING, StoreState.EMPTY)
        return STORE_WORDS[snapshot.state], palette.bad if warn else palette.muted
    waiting = snapshot.unfinished
    wait = "waits" if waiting == 1 else "wait"
    if waiting and snapshot.controller is False:
        return f"! no controller, {waiting} {wait}", palette.bad
    if waiting and snapshot.standing in TROUBLE:
        return f"! {TROUBLE[snapshot.standing]}, {waiting} {wait}", palette.bad
    if waiting and snapshot.standing is Standing.STARTING:
        return "◌ starting", palette.accent
    return ("● live", palette.good) if waiting else ("○ idle", palette.muted)


class TopBar(Widget):
    """Where one is, how many runs there are by status, and how the store is."""

    DEFAULT_CSS = "TopBar { height: 1; dock: top; }"

    def __init__(self) -> None:
        super().__init__()
        self.crumbs: Sequence[str] = ()
        self.note = ""
        self.snapshot = Snapshot()
        self._state: object = None

    def show(self, crumbs: Sequence[str], snapshot: Snapshot, note: str = "") -> None:
        """Show these words."""
        state = (list(crumbs), note, snapshot.state, snapshot.counts, snapshot.controller, snapshot.standing)
        if state != self._state:
            self.crumbs, self.snapshot, self.note, self._state = crumbs, snapshot, note, state
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Paint the line: counts give way to the crumbs, the crumbs to the store's state."""
        del y
        palette = palette_of(self.app.theme)
        ground = palette.panel
        words, color = store_words(self.snapshot, palette)
        width = self.size.width
        left = [
            Segment(" mambalab ", style(palette.background, palette.accent, bold=True)),
            Segment(" ", style(palette.text, ground)),
        ]
        for index, crumb in enumerate(self.crumbs):
            last = index == len(self.crumbs) - 1
            left.append(Segment(visible(crumb), style(palette.text if last else palette.muted, ground, bold=last)))
            left.append(Segment("" if last else " › ", style(palette.faint, ground)))
        if self.note:
            left.append(Segment(f"  {self.note}", style(palette.muted, ground)))
        right = [Segment(f" {words} ", style(color, ground, bold=True))]
        counts = []
        for status, count in self.snapshot.counts.items():
            counts.append(Segment(f" {STATUS_GLYPHS[status]}{count}", style(palette.statuses[status], ground)))
        room = width - sum(segment.cell_length for segment in (*left, *right))
        if sum(segment.cell_length for segment in counts) + 2 <= room:
            right = [*counts, Segment("  ", style(palette.text, ground)), *right]
        used = sum(segment.cell_length for segment in right)
        start = Strip(left).adjust_cell_length(max(0, width - used), style(palette.text, ground))
        return Strip.join([start, Strip(right)]).adjust_cell_length(width, style(palette.text, ground))


class KeyBar(Widget):
    """The keys that matter here; those that cannot be used now are faint. A click does what the key does."""

    DEFAULT_CSS = "KeyBar { height: 1; dock: bottom; }"

    class Pressed(Message):
        """An action was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self) -> None:
        super().__init__()
        self.actions: Sequence[Action] = ()
        self.situation = Situation()
        self._places: list[tuple[int, int, str]] = []
        self._state: list[tuple[str, str]] = []

    def show(self, actions: Sequence[Action], situation: Situation) -> None:
        """Show these actions."""
        shown = [action for action in actions if action.footer]
        # what helps, what leaves and what can be done come first, so that a narrow terminal keeps them
        ordered = sorted(shown, key=lambda action: (action.name not in ALWAYS, bool(action.enabled(situation))))
        state = [(action.name, action.enabled(situation)) for action in ordered]
        if state != self._state:
            self.actions, self.situation, self._state = ordered, situation, state
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Paint as many keys as fit."""
        del y
        palette = palette_of(self.app.theme)
        width = self.size.width
        segments: list[Segment] = []
        self._places = []
        used = 0
        for action in self.actions:
            key, label = f" {key_label(action.keys[0])}", f" {action.label} "
            if used + len(key) + len(label) > width:
                continue
            enabled = not action.enabled(self.situation)
            segments.append(Segment(key, style(palette.accent if enabled else palette.faint, palette.panel, bold=True)))
            segments.append(Segment(label, style(palette.text if enabled else palette.faint, palette.panel)))
            self._places.append((used, used + len(key) + len(label), action.name))
            used += len(key) + len(label)
        return Strip(segments).adjust_cell_length(width, style(palette.text, palette.panel))

    def on_click(self, event: events.Click) -> None:
        """Do what the clicked key does."""
        for start, end, name in self._places:
            if start <= event.x < end:
                self.post_message(self.Pressed(name))


class TextBar(Widget):
    """One line of text in colours: what is selected, or what is wrong. The colour `chosen` sets a word off, as a tab's."""

    DEFAULT_CSS = "TextBar { height: 1; }"

    class Pressed(Message):
        """A piece of the text was clicked."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.pieces: Sequence[tuple[str, str]] = ()

    def show(self, *pieces: tuple[str, str]) -> None:
        """Show pieces of text, each in the colour that the palette has under its name."""
        if pieces != self.pieces:
            self.pieces = pieces
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Paint the line."""
        del y
        palette = palette_of(self.app.theme)
        segments, left = [], self.size.width
        for text, name in self.pieces:
            cut = fit(text, min(cells(text), left))
            left -= cells(cut)
            if name == "chosen":
                segments.append(Segment(cut, style(palette.background, palette.accent, bold=True)))
            else:
                segments.append(Segment(cut, style(named_color(palette, name), palette.surface)))
        return Strip(segments).adjust_cell_length(self.size.width, style(palette.text, palette.surface))

    def on_click(self, event: events.Click) -> None:
        """Tell which piece was clicked."""
        start = 0
        for text, _ in self.pieces:
            if start <= event.x < start + cells(text):
                self.post_message(self.Pressed(text.strip()))
            start += cells(text)
