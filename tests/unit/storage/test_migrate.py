"""The schema is made once, whole, by whoever comes first, and never in a file that belongs to someone else."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

import storage.tables  # noqa: F401 - fills SQLModel's metadata
from storage.cluster import ClusterRow, Phase
from storage.connect import open_store
from storage.engine import writer_engine
from storage.errors import SchemaTooNew, SchemaTooOld, StorageError, StoreMissing
from storage.home import HomePaths
from storage.migrate import migrate
from storage.queries import Reader
from storage.repository import Repository
from storage.schema import SCHEMA_VERSION
from tests.unit.storage.lab import execute, rows_of, start_python, submit


def described(database: Path, table: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return a table's columns, foreign keys and indexes as SQLite sees them, without the names that SQLAlchemy makes."""
    with closing(sqlite3.connect(database)) as connection:
        listed = connection.execute(f"PRAGMA index_list({table})").fetchall()
        indexes = [
            (unique, [row[2:] for row in connection.execute(f"PRAGMA index_xinfo({name})")])
            for _, name, unique, _, _ in listed
        ]
        return {
            "columns": [row[1:4] + row[5:] for row in connection.execute(f"PRAGMA table_info({table})")],
            "keys": sorted(row[2:] for row in connection.execute(f"PRAGMA foreign_key_list({table})")),
            "indexes": sorted(indexes, key=str),
        }


@pytest.mark.parametrize("table", sorted(SQLModel.metadata.tables))
def test_the_migration_makes_what_the_classes_say(paths: HomePaths, tmp_path: Path, table: str) -> None:
    engine = writer_engine(tmp_path / "classes.db")
    SQLModel.metadata.create_all(engine)
    engine.dispose()
    assert described(paths.database, table) == described(tmp_path / "classes.db", table)


def test_migrating_again_changes_nothing(paths: HomePaths) -> None:
    before = paths.database.read_bytes()
    migrate(paths)
    assert paths.database.read_bytes() == before


def test_a_store_ignores_itself_in_git(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path / "deep" / "home")
    migrate(paths)
    assert (paths.root / ".gitignore").read_text() == "*\n"


def test_a_folder_that_holds_other_things_is_not_ignored_in_git(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("mine")
    migrate(HomePaths(tmp_path))
    assert not (tmp_path / ".gitignore").exists()
    (tmp_path / ".mambalab").mkdir()
    (tmp_path / ".mambalab" / "controller.log").write_text("")
    migrate(HomePaths(tmp_path / ".mambalab"))
    assert (tmp_path / ".mambalab" / ".gitignore").read_text() == "*\n"


def test_an_error_of_the_file_system_is_the_stores_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OperationalError("BEGIN EXCLUSIVE", None, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr(command, "upgrade", full)
    with pytest.raises(StorageError, match="disk I/O error. Make room on its disk"):
        migrate(HomePaths(tmp_path / "home"))


@pytest.mark.parametrize("name", ["a b", "100% #1?", "it's ü", "%20"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    paths = HomePaths(tmp_path / name)
    with Repository(paths) as repository:
        (run_id,) = submit(repository)
    with Reader(paths) as reader:
        assert reader.run(run_id).id == run_id
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_processes_that_start_together_make_one_store(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path / "home")
    code = (
        "import sys; from storage.home import HomePaths; from storage.migrate import migrate\n"
        "print('ready', flush=True); sys.stdin.readline(); migrate(HomePaths(sys.argv[1]))"
    )
    processes = [start_python(code, str(paths.root)) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    results = [process.communicate("go\n") for process in processes]
    assert [(process.returncode, error) for process, (_, error) in zip(processes, results, strict=True)] == [
        (0, "")
    ] * 4
    assert rows_of(paths, "SELECT version_num FROM alembic_version") == [("0002",)]
    assert rows_of(paths, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_a_migration_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path / "home")
    code = (
        "import os, signal, sys; from alembic import op; from storage.home import HomePaths\n"
        "from storage.migrate import migrate\n"
        "real = op.execute\n"
        "def execute(statement):\n"
        "    if 'v_ablation' in statement: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(statement)\n"
        "op.execute = execute; migrate(HomePaths(sys.argv[1]))"
    )
    process = start_python(code, str(paths.root))
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    assert rows_of(paths, "SELECT name FROM sqlite_master") == []
    with pytest.raises(StoreMissing, match="no finished schema"):
        open_store(paths.database)
    migrate(paths)
    with Reader(paths) as reader:
        assert reader.runs() == []


def test_a_newer_schema_is_left_alone(paths: HomePaths) -> None:
    execute(paths, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = paths.database.read_bytes()
    for attempt in (lambda: migrate(paths), lambda: Reader(paths), lambda: Repository(paths)):
        with pytest.raises(SchemaTooNew, match="Update mambalab"):
            attempt()
    assert paths.database.read_bytes() == before


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HomePaths:
    """Return a store of the first schema, with a run in it."""
    paths = HomePaths(tmp_path / "first")
    with monkeypatch.context() as patch:
        upgrade = command.upgrade
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        patch.setattr("storage.migrate.SCHEMA_VERSION", 1)
        with Repository(paths) as repository:
            submit(repository)
    assert rows_of(paths, "PRAGMA user_version") == [(1,)]
    return paths


def test_a_store_of_the_first_schema_is_read_as_it_is_and_migrated_when_it_is_written(first: HomePaths) -> None:
    row = ClusterRow(5.0, {"pid": 1}, Phase.WORKING)
    with Reader(first) as reader:
        before = reader.runs()
        assert (len(before), reader.cluster()) == (1, None)
    with Repository(first) as repository:
        repository.set_cluster(row)
    assert rows_of(first, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    with Reader(first) as reader:
        assert reader.runs() == before
        assert reader.cluster() == row


def test_an_older_schema_is_named(paths: HomePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.connect.READABLE_FROM", SCHEMA_VERSION + 1)
    with pytest.raises(SchemaTooOld, match="keep a copy"):
        Reader(paths)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    paths.database.write_text("notes of mine, longer than the header of a database" * 10)
    before = paths.database.read_bytes()
    for attempt in (lambda: migrate(paths), lambda: Reader(paths)):
        with pytest.raises(StoreMissing, match="not a SQLite file"):
            attempt()
    assert paths.database.read_bytes() == before


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    execute(paths, "CREATE TABLE recipe (name)")
    with pytest.raises(StoreMissing, match="another program's database"):
        migrate(paths)
    assert rows_of(paths, "SELECT name FROM sqlite_master") == [("recipe",)]


def test_a_torn_file_is_an_error_of_the_stores_own(paths: HomePaths, repository: Repository) -> None:
    submit(repository)
    repository.close()
    content = paths.database.read_bytes()
    paths.database.write_bytes(content[: len(content) // 3])
    with pytest.raises(StorageError, match=r"lab\.db"), Reader(paths) as reader:
        reader.runs()


def test_no_store_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="mambalab submit"):
        Reader(HomePaths(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
