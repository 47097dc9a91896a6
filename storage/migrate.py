"""Makes or migrates the schema: once, under a lock, however many processes start together."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from storage.connect import check_schema, open_store, schema_version, store_error, translated
from storage.errors import SchemaTooOld, StorageError, StoreLocked, StoreMissing
from storage.home import FOLDER, HomePaths
from storage.schema import SCHEMA_VERSION

SCRIPTS = Path(__file__).parent / "migrations"


def migrate(paths: HomePaths) -> None:
    """Bring the store to this version's schema, making folder and file where there are none.

    Safe from any number of processes at once: one migrates under a file lock, in one transaction that excludes every
    other writer, and the rest find it done. A store that is up to date costs one read.

    Raises:
        SchemaTooNew: a newer mambalab wrote the store; it is left alone.
        StoreMissing: the path holds a file that is no SQLite database, or another program's.
    """
    if _is_current(paths.database):
        return
    _make_folder(paths)
    with _locked(paths.migrate_lock), translated(paths.database):
        with closing(sqlite3.connect(paths.database, timeout=30.0)) as connection:
            version = schema_version(connection)
            if version > SCHEMA_VERSION:
                check_schema(connection, paths.database)
            if version == 0 and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                raise StoreMissing(
                    f"{paths.database} is another program's database. --home or $MAMBALAB_HOME names another folder."
                )
        if version < SCHEMA_VERSION:
            _upgrade(paths.database)


def _is_current(database: Path) -> bool:
    try:
        with closing(open_store(database)) as connection, translated(database):
            return schema_version(connection) == SCHEMA_VERSION
    except (StoreMissing, SchemaTooOld, StoreLocked):
        # each is settled under the lock: made, migrated, or read again once its holder is done
        return False


def _make_folder(paths: HomePaths) -> None:
    root = paths.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        # a store inside a checkout must not end up in a commit; a folder that holds other things is not ours to ignore
        if root.name == FOLDER or not any(root.iterdir()):
            ignore = root / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{root} cannot be made the folder of a store: {error.strerror}. --home or $MAMBALAB_HOME names another."
        ) from error


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _upgrade(database: Path) -> None:
    # Alembic costs 0.2 s to import and is needed once in a store's life
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.exc import DBAPIError

    from storage.engine import writer_engine

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    engine = writer_engine(database, begin="BEGIN EXCLUSIVE")
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        if not isinstance(error.orig, sqlite3.Error):
            raise
        raise store_error(error.orig, database) from error
    finally:
        engine.dispose()
