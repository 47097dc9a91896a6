"""The engine that writes. Readers use plain sqlite3 (storage.queries) and never come here."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.pool import PoolProxiedConnection

from storage.encoding import dumps

BUSY_TIMEOUT_S = 30.0
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",  # a power cut may lose the last commits, never the file; the spools are re-read
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA wal_autocheckpoint=1000",
    "PRAGMA journal_size_limit=67108864",
)


def writer_engine(database: Path, *, begin: str = "BEGIN IMMEDIATE", timeout_s: float = BUSY_TIMEOUT_S) -> Engine:
    """Return an engine on an existing or new database file; nothing is opened until its first use.

    Transactions start with `begin`: a deferred one that turns into a write fails at once when another writer is
    ahead, whatever the timeout, so every transaction here takes the write lock first and waits for it.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(database)),
        connect_args={"timeout": timeout_s, "check_same_thread": False},
        json_serializer=dumps,
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # sqlite3 must not begin transactions of its own
        for pragma in PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def driver_connection(borrowed: PoolProxiedConnection) -> sqlite3.Connection:
    """Return sqlite3's own connection beneath one of the pool's."""
    driver = borrowed.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
