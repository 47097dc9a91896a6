"""The terminal UI: the application that holds the store's answers, the settings and the screens."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from textual.app import App
from textual.binding import BindingType
from textual.command import Provider
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen

from storage.errors import StorageError
from storage.home import HomePaths
from tui.messages import (
    UNREADABLE,
    ClusterRead,
    ControlDone,
    CurvesRead,
    DetailRead,
    LogRead,
    ParametersRead,
    Snapshot,
    SparksRead,
    StoreChanged,
    StoreState,
)
from tui.screens.runs import RunsScreen
from tui.settings import load_settings, save_settings, settings_file
from tui.source import StoreSource
from tui.theme import THEMES
from tui.widgets.command_log import Done, command

LEAST = (80, 24)  # columns and rows that every layout fits into


def _actions_provider() -> type[Provider]:
    from tui.palette import ActionsProvider

    return ActionsProvider


class Launcher(Protocol):
    """What makes a command of a run's spec, and carries it out; both take a while."""

    def options(self, spec: Mapping[str, Any]) -> list[str]:
        """Return the options of `mambalab run`. Raises ValueError for a spec that is not valid."""

    def submit(self, words: Sequence[str]) -> None:
        """Carry out a `mambalab` command. Raises OSError where that fails."""


class MambaLab(App[None]):
    """Shows one store. Reads go through the source's thread, writes through threads of their own."""

    CSS_PATH = "app.tcss"
    TITLE = "mambalab"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_actions_provider}
    BINDINGS: ClassVar[list[BindingType]] = []
    ENABLE_COMMAND_PALETTE = True
    PAUSE_GC_ON_SCROLL = True

    def __init__(
        self,
        paths: HomePaths,
        *,
        now: Callable[[], float] = time.time,
        wake_controller: Callable[[str], object] | None = None,
        launcher: Launcher | None = None,
        named_home: str = "",
    ) -> None:
        super().__init__()
        self.named_home = named_home
        self.paths = paths
        self.now = now
        self.wake_controller = wake_controller
        self.launcher = launcher
        self.settings_path = settings_file()
        self.settings, self._warning = load_settings(self.settings_path)
        self.snapshot = Snapshot()
        self.commands: list[Done] = []
        self.parameters: dict[str, float] = {}
        self._frozen = False
        self._too_small = False
        self.source = StoreSource(paths, self._post, now=now)
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = (
            self.settings.theme if self.settings.theme in ("mambalab-dark", "mambalab-light") else THEMES[0].name
        )

    def get_default_screen(self) -> Screen[Any]:
        """Start with the runs."""
        return RunsScreen()

    def on_mount(self) -> None:
        """Watch the store, and take over what it has answered while the terminal was made ready."""
        self.source.start()
        self.snapshot = self.source.snapshot
        if self.is_web:
            self.set_interval(1.0, partial(self._end_with, os.getppid()))
        if self._warning:
            self.notify(self._warning, severity="warning", markup=False)

    def _end_with(self, server: int) -> None:
        """Leave where the server that shows this to a browser is gone without a word: nobody can look any more."""
        if os.getppid() != server:
            self.exit()

    def on_resize(self, event: Resize) -> None:
        """Put a word in front of everything while the terminal is too small, and take it off again."""
        too_small = event.size.width < LEAST[0] or event.size.height < LEAST[1]
        if too_small != self._too_small:
            self._too_small = too_small
            if too_small:
                from tui.screens.too_small import TooSmallScreen

                self.push_screen(TooSmallScreen(LEAST))
            else:
                self.pop_screen()

    def on_unmount(self) -> None:
        """Stop watching."""
        self.source.stop()

    def _post(self, message: Message) -> None:
        if self.is_running:
            self.post_message(message)

    def writable(self) -> dict[str, Any]:
        """Return whether actions can be written, and why not, for a `Situation`."""
        ready = self.snapshot.state not in (*UNREADABLE, StoreState.LOADING)
        return {
            "writable": ready,
            "why_not_writable": "" if ready else "the store cannot be written now",
            "can_launch": self.launcher is not None,
            "abandoned": self.snapshot.controller is False and self.snapshot.unfinished > 0,
        }

    @property
    def home_name(self) -> str:
        """The store's folder as one would type it here."""
        root = self.paths.root
        return str(root.relative_to(Path.cwd())) if root.is_relative_to(Path.cwd()) else str(root)

    def command(self, *words: str) -> str:
        """Return a `mambalab` command line for this store, as one types it in the shell that this was started from."""
        return command(*(("--home", self.named_home) if self.named_home else ()), *words)

    def toggle_theme(self) -> None:
        """Change between dark and light, and remember it."""
        self.use_theme("mambalab-light" if self.theme == "mambalab-dark" else "mambalab-dark")

    def use_theme(self, name: str) -> None:
        """Show a theme, and remember it."""
        self.theme = self.settings.theme = name
        self.save_settings()

    def save_settings(self) -> None:
        """Keep the settings."""
        if error := save_settings(self.settings_path, self.settings):
            self.notify(error, severity="warning", markup=False)

    def control(self, what: str, command: str, act: Callable[[], object], *, wakes: str = "") -> None:
        """Carry out a write on a thread of its own; its end is posted as `ControlDone`.

        `wakes` names the kind of request that somebody must act on.
        """
        self.run_worker(
            partial(self._control, what, command, act, wakes), thread=True, group="control", exit_on_error=False
        )

    def _control(self, what: str, command: str, act: Callable[[], object], wakes: str) -> None:
        error = ""
        try:
            act()
            if wakes and self.wake_controller is not None:
                self.wake_controller(wakes)
        except (StorageError, ValueError, OSError) as problem:
            error = str(problem)
        self.post_message(ControlDone(what, command, error))

    def attempt(self, what: str, act: Callable[[], object]) -> None:
        """Do what somebody asked for in words, or tell them what is wrong with the words."""
        try:
            act()
        except ValueError as problem:
            self.notify(str(problem), title=what, severity="error", timeout=8, markup=False)

    def log_command(self, what: str, command: str, error: str = "") -> None:
        """Add to the command log."""
        self.commands.append(Done(self.now(), what, command, error))

    def on_control_done(self, message: ControlDone) -> None:
        """Say how an action went, and look at the store again."""
        self.log_command(message.what, message.command, message.error)
        if message.error:
            self.notify(message.error, title=message.what, severity="error", timeout=8, markup=False)
        else:
            self.notify(f"$ {message.command}", title=message.what, timeout=4, markup=False)
        self.source.refresh()

    def on_store_changed(self, message: StoreChanged) -> None:
        """Keep the answer and show it on the screen in front."""
        self.snapshot = message.snapshot
        for screen in self._showing("show_snapshot"):
            screen.show_snapshot(message.snapshot)
        if not message.snapshot.complete:
            self.call_after_refresh(self.source.painted)
        if not self._frozen and (message.snapshot.complete or not message.snapshot.runs):
            self._frozen = True
            gc.freeze()  # thousands of rows that stay: a key need not wait for a collection that walks through them
            gc.enable()

    def on_detail_read(self, message: DetailRead) -> None:
        """Hand on."""
        for screen in self._showing("show_detail"):
            screen.show_detail(message.detail)

    def on_cluster_read(self, message: ClusterRead) -> None:
        """Hand on."""
        for screen in self._showing("show_cluster"):
            screen.show_cluster(message.row, message.pid)

    def on_curves_read(self, message: CurvesRead) -> None:
        """Hand on."""
        for screen in self._showing("show_curves"):
            screen.show_curves(message.curves, complete=message.complete)

    def on_sparks_read(self, message: SparksRead) -> None:
        """Hand on."""
        for screen in self._showing("show_sparks"):
            screen.show_sparks(dict(message.sparks))

    def on_parameters_read(self, message: ParametersRead) -> None:
        """Keep them, and show what they say about a comparison."""
        self.parameters.update(message.parameters)
        for screen in self._showing("show_parameters"):
            screen.show_parameters()

    def on_log_read(self, message: LogRead) -> None:
        """Hand on."""
        for screen in self._showing("show_log"):
            screen.show_log(message)

    def _showing(self, method: str) -> list[Any]:
        """Return the screen in front, and the one below a dialogue, where they show such a thing."""
        return [
            screen for screen in self.screen_stack[-2:] if getattr(screen, "ready", False) and hasattr(screen, method)
        ]


def make_app(paths: HomePaths, **options: Any) -> MambaLab:
    """Return the application on a store, which need not exist."""
    return MambaLab(paths, **options)


def run_ui(
    paths: HomePaths,
    *,
    wake_controller: Callable[[str], object] | None = None,
    launcher: Launcher | None = None,
    named_home: str = "",
) -> None:
    """Run the terminal UI until the user leaves.

    `wake_controller` is called, on a thread, with the kind of a request that was written: it has somebody act on it.
    `named_home` is the folder that commands must name to mean this store; empty where they find it by themselves.
    """
    sys.setswitchinterval(
        0.001
    )  # the source's thread decodes rows in Python: keys must not wait 5 ms for each of its turns
    app = make_app(paths, wake_controller=wake_controller, launcher=launcher, named_home=named_home)
    app.source.start()  # the first rows are read while the terminal is made ready
    app.run()
