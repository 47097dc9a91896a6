"""Plain sqlite3 connections for what must start fast: readers, and the few writes of a user interface."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from storage.errors import QueryFailed, SchemaTooNew, SchemaTooOld, StorageError, StoreLocked, StoreMissing
from storage.schema import READABLE_FROM, SCHEMA_VERSION


def open_store(database: Path, *, write: bool = False, timeout_s: float = 5.0) -> sqlite3.Connection:
    """Open an existing store of a schema that this version reads, in autocommit mode. Never makes a database.

    Raises:
        StoreMissing, SchemaTooOld, SchemaTooNew, StoreLocked.
    """
    if not database.is_file():
        raise StoreMissing(
            f"no store at {database.parent}. `mambalab submit` makes one; --home or $MAMBALAB_HOME names another."
        )
    with translated(database):
        uri = f"file:{quote(str(database))}?mode={'rw' if write else 'ro'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=timeout_s)
        try:
            check_schema(connection, database)
            if write:
                connection.execute("PRAGMA foreign_keys=ON")
                connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
    return connection


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the schema's number; 0 for a file that holds none yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_schema(connection: sqlite3.Connection, database: Path) -> None:
    """Raise unless this version reads the schema."""
    version = schema_version(connection)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{database} has schema {version}, this mambalab knows up to {SCHEMA_VERSION}. Update mambalab to open it."
        )
    if version == 0:
        raise StoreMissing(
            f"{database} holds no finished schema: `mambalab submit` makes one, or another process is making it now."
        )
    if version < READABLE_FROM:
        raise SchemaTooOld(
            f"{database} has schema {version}, this mambalab needs {SCHEMA_VERSION}. "
            "`mambalab submit` migrates it; keep a copy of the file first."
        )


@contextmanager
def translated(database: Path) -> Iterator[None]:
    """Turn sqlite3's errors about the file into the store's own."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error, database) from error


def store_error(error: sqlite3.Error, database: Path) -> StorageError:
    """Return the store's error that says what an error of sqlite3 means for this file."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreLocked(
            f"{database} is held by another process: {text}. Try again; a program with an open write transaction, "
            "such as a database browser, must commit or be closed."
        )
    if "not a database" in text:
        return StoreMissing(f"{database} is not a SQLite file. --home or $MAMBALAB_HOME names another folder.")
    if "no such table" in text or "no such column" in text:
        return QueryFailed(f"{database}: {text}")
    if "unable to open" in text or "readonly" in text:
        return StorageError(
            f"{database} cannot be opened: {text}. SQLite's WAL needs write permission in {database.parent}; a copy of "
            "lab.db in a folder of your own can be read with --home."
        )
    if "full" in text or "disk I/O" in text:
        return StorageError(f"{database}: {text}. Make room on its disk and try again; what was committed is whole.")
    return StorageError(f"{database}: {text}")
