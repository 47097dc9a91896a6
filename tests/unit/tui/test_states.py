"""Every screen says how the store and the cluster are, keeps what it showed, and goes on by itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from storage.cluster import SILENT_S, ClusterRow, Phase
from storage.errors import StoreLocked
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from storage.sample import NOW
from storage.schema import SCHEMA_VERSION
from tests.unit.tui.conftest import Drive, lab, until
from tests.unit.tui.test_screens import text_of
from tui.app import make_app
from tui.screens.base import LabScreen
from tui.source import StoreSource
from tui.theme import DARK
from tui.widgets.status_bar import TopBar, store_words

SCREENS = {
    "runs": (),
    "run": ("enter",),
    "ablations": ("a",),
    "ablation": ("a", "enter"),
    "compare": ("a", "enter", "c"),
    "sql": ("Q",),
    "cluster": ("w",),
}
Change = Callable[[HomePaths, pytest.MonkeyPatch], Callable[[], object]]


def locked(_paths: HomePaths, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Have another process hold the store; return what ends that."""
    before = Reader.data_version

    def refuse(_reader: Reader) -> int:
        raise StoreLocked("lab.db is held by another process")

    patch.setattr(Reader, "data_version", refuse)
    return lambda: patch.setattr(Reader, "data_version", before)


def newer(paths: HomePaths, _patch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Have a newer version migrate the store while it is shown."""

    def write(version: int) -> None:
        with closing(sqlite3.connect(paths.database)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("UPDATE run SET priority = priority WHERE num = 1")
            connection.commit()

    write(SCHEMA_VERSION + 1)
    return lambda: write(SCHEMA_VERSION)


def removed(paths: HomePaths, _patch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Have the store moved away."""
    aside = paths.database.with_suffix(".aside")
    paths.database.rename(aside)
    return lambda: aside.rename(paths.database)


def down(paths: HomePaths, _patch: pytest.MonkeyPatch, **changes: Any) -> Callable[[], object]:
    """Have the controller say that its cluster does not answer."""

    def say(**what: Any) -> None:
        with Repository(paths) as repository:
            repository.set_cluster(ClusterRow(**{"at": NOW, "controller": {"pid": 7}, "phase": Phase.WORKING, **what}))

    say(**(changes or {"told": "the Ray head does not answer"}))
    return say


def silent(paths: HomePaths, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Have the controller say nothing for a while."""
    return down(paths, patch, at=NOW - SILENT_S - 1)


CHANGES: dict[str, tuple[Change, str]] = {
    "locked": (locked, "! locked, last answer shown"),
    "newer": (newer, "! newer schema"),
    "removed": (removed, "no store"),
    "down": (down, "! cluster down, "),
    "silent": (silent, "! controller silent, "),
}


def top(pilot: Pilot[Any]) -> str:
    """Return what the screen in front says of the store."""
    return store_words(pilot.app.screen.query_one(TopBar).snapshot, DARK)[0]


@pytest.mark.parametrize("name", SCREENS)
@pytest.mark.parametrize("state", CHANGES)
async def test_a_screen_says_how_things_are_and_goes_on(
    store: HomePaths, drive: Drive, monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    monkeypatch.setattr("tui.source.living_controller", lambda _paths: 7)
    down(store, monkeypatch, told="")
    async with drive(store, size=(80, 24)) as pilot:
        await pilot.press(*SCREENS[name])
        await pilot.pause()
        screen = pilot.app.screen
        assert isinstance(screen, LabScreen)
        assert name == screen.SCOPE
        assert top(pilot) == "● live"
        change, words = CHANGES[state]
        undo = change(store, monkeypatch)
        await until(pilot, lambda: top(pilot).startswith(words), words)
        await pilot.press("j", "k")
        assert pilot.app.screen is screen
        undo()
        await until(pilot, lambda: top(pilot) == "● live", "it is well again")
        assert len(lab(pilot).snapshot.runs) > 0


@pytest.mark.parametrize(("key", "pane"), [("", "#empty"), ("a", "#empty"), ("w", "#empty")])
async def test_while_the_store_is_read_the_screens_say_so(
    store: HomePaths, monkeypatch: pytest.MonkeyPatch, key: str, pane: str
) -> None:
    goes_on = threading.Event()
    read = StoreSource._read

    def late(source: StoreSource) -> None:
        goes_on.wait(20)
        read(source)

    monkeypatch.setattr(StoreSource, "_read", late)
    app = make_app(store, now=lambda: NOW)
    try:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: getattr(app.screen, "ready", False), "the screen")
            await pilot.press(*([key] if key else []))
            await pilot.pause()
            assert "Reading the store ..." in text_of(pilot, pane)
            assert top(pilot) == "reading"
            goes_on.set()
            await until(pilot, lambda: app.snapshot.complete, "the store")
            await until(pilot, lambda: not app.screen.has_class("-empty") or key == "w", "what was read")
    finally:
        goes_on.set()


async def test_without_a_store_every_list_says_how_to_make_one(tmp_path: Path, drive: Drive) -> None:
    async with drive(HomePaths(tmp_path / "none")) as pilot:
        for key in ("a", "w"):
            await pilot.press(key)
            assert "mambalab submit demo" in text_of(pilot, "#empty")
            await pilot.press("escape")
