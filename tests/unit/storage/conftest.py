"""An empty store for each test, copied from one that was migrated once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.home import HomePaths
from storage.migrate import migrate
from storage.queries import Reader
from storage.repository import Repository


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema and nothing in it."""
    paths = HomePaths(tmp_path_factory.mktemp("template"))
    migrate(paths)
    return paths.database


@pytest.fixture
def paths(tmp_path: Path, template: Path) -> HomePaths:
    """An empty store."""
    paths = HomePaths(tmp_path / "home")
    paths.root.mkdir()
    shutil.copy(template, paths.database)
    return paths


@pytest.fixture
def repository(paths: HomePaths) -> Iterator[Repository]:
    """The empty store's write side."""
    with Repository(paths) as repository:
        yield repository


@pytest.fixture
def reader(paths: HomePaths) -> Iterator[Reader]:
    """The empty store's read side."""
    with Reader(paths) as reader:
        yield reader
