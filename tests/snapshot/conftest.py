"""The same store, clock, folder and time zone for every snapshot."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.home import HomePaths
from storage.queries import Reader
from storage.sample import NOW, fill_store

LOG = """\
2026-11-24 10:00:01 device cpu, 2 threads, torch 2.13.0
2026-11-24 10:00:02 selective-copying, context 4096, memorize 16
2026-11-24 10:00:03 step 100  train/loss 2.61
2026-11-24 10:00:04 step 200  train/loss 2.33
2026-11-24 10:00:05 RuntimeError: the loss is not finite
"""


@pytest.fixture(autouse=True)
def _still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    # on a slow machine a picture would show what is read so far
    monkeypatch.setattr("tui.curve_cache.PROGRESS_S", math.inf)
    monkeypatch.chdir(tmp_path)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("snapshot") / ".mambalab"
    paths = HomePaths(home)
    fill_store(paths, runs=50, points=60)
    with Reader(paths) as reader:
        runs = reader.runs()
    log = paths.attempt(next(run.id for run in runs if run.status == "failed"), 1).log
    log.parent.mkdir(parents=True)
    log.write_text(LOG, encoding="utf-8")
    return home


@pytest.fixture
def store(_filled: Path, tmp_path: Path) -> HomePaths:
    """Return a store of this test's own, in the current folder."""
    shutil.copytree(_filled, tmp_path / ".mambalab")
    return HomePaths(tmp_path / ".mambalab")


@pytest.fixture
def now() -> Callable[[], float]:
    """Return a clock that stands still."""
    return lambda: NOW
