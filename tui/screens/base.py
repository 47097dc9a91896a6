"""What all screens share: the two bars, dispatch by the table of keys, and the actions that work everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.screen import Screen

from tui.keys import Situation, actions
from tui.messages import Snapshot
from tui.screens.moving import Mover, Moving
from tui.source import Interest
from tui.theme import PALETTES
from tui.widgets.status_bar import KeyBar, TopBar

__all__ = ["LabScreen", "Mover"]

if TYPE_CHECKING:
    from tui.app import MambaLab


class LabScreen(Moving, Screen[None]):
    """A screen whose keys come from the table. Subclasses name their scope, their body and what the keys move."""

    SCOPE: ClassVar[str] = ""
    AUTO_FOCUS = ""
    ESCAPE_TO_MINIMIZE = False
    ready = False  # its widgets are there: answers that come before or after find nothing to show them

    @property
    def lab(self) -> MambaLab:
        """The application, with its type."""
        return cast("MambaLab", self.app)

    @property
    def snapshot(self) -> Snapshot:
        """The store as last read."""
        return self.lab.snapshot

    def compose(self) -> ComposeResult:
        """Put the bars around the body."""
        yield TopBar()
        yield from self.body()
        yield KeyBar()

    def body(self) -> ComposeResult:
        """Yield the screen's own widgets."""
        yield from ()

    def crumbs(self) -> list[str]:
        """Return where one is, outermost first."""
        return [self.SCOPE]

    def note(self) -> str:
        """Return what stands beside the crumbs."""
        return ""

    def situation(self) -> Situation:
        """Return what the conditions of actions look at."""
        return Situation()

    def on_mount(self) -> None:
        """Show what is known, and go on as time passes: ages and etas change without the store changing."""
        self.ready = bool(self.query(KeyBar))  # not so where one leaves before all is mounted
        if not self.ready:
            return
        self.begin()
        self.show_snapshot(self.snapshot)
        self.set_interval(1.0, self._tick)

    def begin(self) -> None:
        """Set up what needs the widgets to be there."""

    def on_unmount(self) -> None:
        """Nothing is shown any more."""
        self.ready = False

    def _tick(self) -> None:
        if self.ready and self.is_current:
            self.tick()

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was in front."""
        if self.ready:
            self.show_snapshot(self.snapshot)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show a new answer of the store."""
        del snapshot
        self.show_bars()

    def show_bars(self) -> None:
        """Bring both bars up to date."""
        for top in self.query(TopBar):
            top.show(self.crumbs(), self.snapshot, self.note())
        for keys in self.query(KeyBar):
            keys.show(actions(self.SCOPE), self.situation())

    def tick(self) -> None:
        """Repaint what depends on the time."""

    def action_perform(self, name: str, argument: str = "") -> None:
        """Do what a key stands for, with an argument what its name stands for, or say why not."""
        action = next(action for action in actions(self.SCOPE) if action.name == name)
        reason = action.enabled(self.situation())
        if reason:
            self.notify(f"{action.label}: {reason}", severity="warning", timeout=4, markup=False)
            return
        if argument:
            self.lab.attempt(action.label, lambda: getattr(self, f"take_{name}")(argument))
        else:
            getattr(self, f"do_{name}")()
        if self.is_current:
            self.show_bars()

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        if name == "theme":
            return [theme.removeprefix("mambalab-") for theme in PALETTES]
        if name == "ablations":
            return [row.name for row in self.snapshot.ablations]
        if name == "open":
            return [*(row.name for row in self.snapshot.ablations), *(run.id for run in self.snapshot.runs)]
        return ()

    def do_command(self) -> None:
        """Ask for an action by its name."""
        from tui.commanding import parse
        from tui.screens.command import CommandScreen

        listed = actions(self.SCOPE)

        def call(text: str) -> None:
            action, argument = parse(text, listed)
            self.action_perform(action.name, argument)

        def answer(text: str | None) -> None:
            if text is not None:
                self.lab.attempt(text, lambda: call(text))

        self.lab.push_screen(CommandScreen(listed, self.situation(), lambda action: self.choices(action.name)), answer)

    def on_key_bar_pressed(self, message: KeyBar.Pressed) -> None:
        """Do what was clicked."""
        self.action_perform(message.name)

    def do_open(self) -> None:
        """Open what is under the cursor."""

    def do_back(self) -> None:
        """Leave one layer."""
        if len(self.lab.screen_stack) > 1:
            self.lab.pop_screen()
        else:
            self.notify("this is the outermost screen; q quits", timeout=3)

    def watch_store(self, interest: Interest) -> None:
        """Have this read beside the lists, unless another screen of the store is in front: that one's wish counts."""
        front = next((screen for screen in reversed(self.lab.screen_stack) if isinstance(screen, LabScreen)), None)
        if front is self:
            self.lab.source.watch(replace(interest, asker=id(self)))

    def do_quit(self) -> None:
        """Leave the program."""
        self.lab.exit()

    def do_theme(self) -> None:
        """Change between dark and light."""
        self.lab.toggle_theme()

    def take_theme(self, name: str) -> None:
        """Show a theme."""
        if f"mambalab-{name}" not in PALETTES:
            raise ValueError(f"expected {' or '.join(self.choices('theme'))}, got {name!r}")
        self.lab.use_theme(f"mambalab-{name}")

    def take_ablations(self, name: str) -> None:
        """Open an ablation by its name, or by how its id begins."""
        found = [row for row in self.snapshot.ablations if row.name == name]
        found = found or [row for row in self.snapshot.ablations if row.id.startswith(name)]
        if not found:
            raise ValueError(f"there is no ablation {name!r}" + _nearest(name, self.choices("ablations")))
        from tui.screens.ablation import AblationScreen

        self.lab.push_screen(AblationScreen(found[0].id))

    def take_open(self, name: str) -> None:
        """Open a run by how its id begins, or an ablation by its name."""
        runs = [run for run in self.snapshot.runs if run.id.startswith(name)]
        if len(runs) > 1:
            raise ValueError(f"{len(runs)} runs have an id that begins with {name!r}")
        if not runs or any(row.name == name for row in self.snapshot.ablations):
            self.take_ablations(name)
            return
        from tui.screens.run import RunScreen

        self.lab.push_screen(RunScreen(runs[0].id))

    def take_sql(self, query: str) -> None:
        """Ask the store in SQL."""
        from tui.screens.sql import SqlScreen

        self.lab.push_screen(SqlScreen(query))

    def _copy(self, text: str) -> None:
        if not text:
            self.notify("nothing is selected", severity="warning")
            return
        self.lab.copy_to_clipboard(text)
        self.notify(f"copied: {text}", timeout=4, markup=False)

    def do_palette(self) -> None:
        """Open the command palette."""
        self.lab.action_command_palette()

    def do_help(self) -> None:
        """Show the keys."""
        from tui.screens.help import HelpScreen

        self.lab.push_screen(HelpScreen(self.SCOPE, self.situation()))

    def do_ablations(self) -> None:
        """Show all ablations; from one of them, the list it was opened from."""
        from tui.screens.ablations import AblationsScreen

        self.lab.push_screen(AblationsScreen())

    def do_cluster(self) -> None:
        """Show machines, GPUs and the queue."""
        from tui.screens.cluster import ClusterScreen

        self.lab.push_screen(ClusterScreen())

    def do_sql(self) -> None:
        """Show the SQL console."""
        from tui.screens.sql import SqlScreen

        self.lab.push_screen(SqlScreen())

    def do_commands(self) -> None:
        """Show the command log."""
        from tui.screens.help import CommandsScreen

        self.lab.push_screen(CommandsScreen())


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; the nearest is {close[0]}" if close else ""
