"""A seeded store, copied for each test that changes it, and a way to drive the application by keys."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from textual.pilot import Pilot
from textual.screen import Screen

from storage.home import HomePaths
from storage.sample import NOW, fill_store
from tui.app import MambaLab, make_app

RUNS = 52  # two ablations of 24 runs and four single runs: some failed, some at work, some queued
Drive = Callable[..., AbstractAsyncContextManager[Pilot[None]]]


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sample") / "lab"
    fill_store(HomePaths(home), runs=RUNS, points=12)
    return home


@pytest.fixture
def store(_filled: Path, tmp_path: Path) -> HomePaths:
    """Return a store of this test's own."""
    shutil.copytree(_filled, tmp_path / "lab")
    return HomePaths(tmp_path / "lab")


async def until(pilot: Pilot[Any], condition: Callable[[], object], what: str = "") -> None:
    """Let the application work until something is true; fail where it does not become so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what or condition}"
        await pilot.pause(0.01)
    await pilot.pause()


@pytest.fixture
def drive() -> Drive:
    """Return a context that runs the application on a store until it has read it."""

    @asynccontextmanager
    async def driving(paths: HomePaths, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Pilot[None]]:
        app = make_app(paths, now=lambda: NOW)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: getattr(app.screen, "ready", False) and app.snapshot.state != "loading")
            await until(pilot, lambda: app.snapshot.complete or not app.snapshot.runs)
            yield pilot

    return driving


def lab(pilot: Pilot[Any]) -> MambaLab:
    """Return the application with its type."""
    assert isinstance(pilot.app, MambaLab)
    return pilot.app


Shown = TypeVar("Shown", bound=Screen[Any])


def at(pilot: Pilot[Any], kind: type[Shown]) -> Shown:
    """Return the screen in front, which must be of a kind."""
    screen = pilot.app.screen
    assert isinstance(screen, kind), f"in front is {screen}"
    return screen
