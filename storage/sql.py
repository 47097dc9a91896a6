"""A console for plain SQL that can only read. Standard library only."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from storage.connect import open_store, store_error
from storage.errors import NotReadOnly, QueryFailed, StoreLocked
from storage.home import HomePaths
from storage.lookup import nearest

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
# describe tables; with an argument they name what to describe
_DESCRIBING = {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
# read a setting; with an argument they would change it
_SETTINGS = {"user_version", "journal_mode", "compile_options", "database_list", "encoding", "page_count", "page_size"}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"}
_OPCODES = 10_000  # SQLite's own steps between two looks at the clock, a fraction of a millisecond
_MAX_VALUE_BYTES = 256 * 2**20
# what stands between FROM or JOIN and the next clause: the names of tables, and their aliases
_SOURCES = re.compile(
    r"\b(?:from|join)\b(.*?)(?=\b(?:from|join|where|group|having|window|order|limit|on|using|union|except|intersect)\b"
    r"|[();]|$)",
    re.IGNORECASE | re.DOTALL,
)

_ACTIONS = {
    sqlite3.SQLITE_INSERT: "INSERT",
    sqlite3.SQLITE_UPDATE: "UPDATE",
    sqlite3.SQLITE_DELETE: "DELETE",
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_PRAGMA: "PRAGMA",
    sqlite3.SQLITE_TRANSACTION: "transactions",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT",
    sqlite3.SQLITE_FUNCTION: "the function",
    sqlite3.SQLITE_ANALYZE: "ANALYZE",
    sqlite3.SQLITE_REINDEX: "REINDEX",
    sqlite3.SQLITE_ALTER_TABLE: "ALTER",
    sqlite3.SQLITE_CREATE_TABLE: "CREATE",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "CREATE",
    sqlite3.SQLITE_CREATE_VIEW: "CREATE",
    sqlite3.SQLITE_CREATE_TEMP_VIEW: "CREATE",
    sqlite3.SQLITE_CREATE_INDEX: "CREATE",
    sqlite3.SQLITE_DROP_TABLE: "DROP",
    sqlite3.SQLITE_DROP_VIEW: "DROP",
    sqlite3.SQLITE_DROP_INDEX: "DROP",
}


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a query answered; `truncated` where there were more rows than asked for."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool


def run_query(
    paths: HomePaths,
    sql: str,
    *,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    limit: int | None = None,
    timeout_s: float = 30,
    stopped: Callable[[], bool] = lambda: False,
) -> QueryResult:
    """Run one statement that reads and return its rows, at most `limit` of them.

    The connection is opened read-only, and SQLite asks `_Guard` about everything a statement would do before it runs.
    `stopped` is asked now and then; once it is true, the query is given up.

    Raises:
        NotReadOnly: the statement would change the store or the connection.
        QueryFailed: it does not run, or takes longer than `timeout_s`; an unknown table or column names the nearest one.
        StorageError: the store cannot be opened.
    """
    with closing(open_store(paths.database)) as connection:
        guard = _Guard(timeout_s, stopped)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.set_authorizer(guard.authorize)
        connection.set_progress_handler(guard.is_late, _OPCODES)
        try:
            cursor = connection.execute(sql, parameters)
            rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            connection.set_authorizer(None)
            connection.set_progress_handler(None, 0)
            if guard.was_interrupted(error):
                raise KeyboardInterrupt from error
            raise guard.explain(error, connection, paths, sql) from error
        if cursor.description is None:
            raise QueryFailed("there is no statement to run. Try: SELECT * FROM v_runs LIMIT 10")
        columns = [str(column[0]) for column in cursor.description]
        truncated = limit is not None and len(rows) > limit
        return QueryResult(columns, rows[:limit] if truncated else rows, truncated)


class _Guard:
    """Allows what reads, remembers what it refused, and watches the clock."""

    def __init__(self, timeout_s: float, stopped: Callable[[], bool]) -> None:
        self._timeout_s = timeout_s
        self._asks_to_stop = stopped
        self._stopped = False
        self._deadline = time.monotonic() + timeout_s
        self._late = False
        self._refused: str | None = None

    def authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
    ) -> int:
        """Answer SQLite whether a statement may do one thing."""
        if action in _READS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
            # json_each and its like register themselves so, in memory; SQLite itself refuses anyone else's change
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and _reads_only(first or "", second):
            return sqlite3.SQLITE_OK
        if self._refused is None:
            name = second if action == sqlite3.SQLITE_FUNCTION else first
            self._refused = f"{_ACTIONS.get(action, 'a change')} {name or ''}".rstrip()
        return sqlite3.SQLITE_DENY

    def is_late(self) -> bool:
        """Answer SQLite whether to give up."""
        self._late = time.monotonic() > self._deadline
        self._stopped = self._asks_to_stop()
        return self._late or self._stopped

    def was_interrupted(self, error: Exception) -> bool:
        """Tell whether ctrl+c ended the statement: Python raises it in the progress handler, which SQLite swallows."""
        return str(error) == "interrupted" and not (self._late or self._stopped)

    def explain(self, error: Exception, connection: sqlite3.Connection, paths: HomePaths, sql: str) -> Exception:
        """Return the store's error for one of sqlite3's."""
        text = str(error)
        if "may not be modified" in text:
            self._refused = self._refused or f"a change: {text}"
        if self._refused is not None:
            return NotReadOnly(
                f"the console only reads, and this statement asks for {self._refused}. "
                "Runs are changed by `mambalab cancel`, `retry` and `submit`."
            )
        if self._stopped:
            return QueryFailed("the query was stopped.")
        if self._late:
            return QueryFailed(
                f"the query took longer than {self._timeout_s:g} s and was stopped. Narrow it, or raise the timeout."
            )
        if "one statement" in text:
            return QueryFailed("the console runs one statement at a time: leave out what follows the first `;`.")
        if isinstance(error, sqlite3.Error):
            translated = store_error(error, paths.database)
            if isinstance(translated, StoreLocked):
                return translated
        return QueryFailed(f"{text}{_hint(text, connection, sql)}")


def _reads_only(pragma: str, argument: str | None) -> bool:
    name = pragma.lower()
    return name in _DESCRIBING or (name in _SETTINGS and argument is None)


def _hint(text: str, connection: sqlite3.Connection, sql: str) -> str:
    """Name the nearest table, or the nearest column of the statement's tables, to one that does not exist."""
    kind, colon, name = text.rpartition(": ")
    if not colon:
        return ""
    tables = [
        str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    ]
    if kind == "no such table":
        meant = nearest(name, tables)
        readable = ", ".join(sorted(table for table in tables if table.startswith("v_")))
        return f". Did you mean {meant!r}?" if meant else f". Views made for reading: {readable}"
    if kind != "no such column":
        return ""
    table, _, column = name.rpartition(".")
    owners = [table] if table in tables else _named(sql, tables)
    columns = {
        str(row[0]) for owner in owners for row in connection.execute("SELECT name FROM pragma_table_info(?)", (owner,))
    }
    if column.lower() in {known.lower() for known in columns}:
        return ""  # under a wrong alias: offering the very word would be no help
    # views shorten the tables' names: `trial_label` there is `trial`, which is less near than `trial_index`
    shorter = [known for known in columns if column.startswith(f"{known}_")]
    meant = max(shorter, key=len) if shorter else nearest(column, sorted(columns))
    return f". Did you mean {meant!r}?" if meant else ""


def _named(sql: str, tables: Sequence[str]) -> list[str]:
    """Return the tables and views that a statement reads from, by its text: it did not compile."""
    words = {word.lower() for source in _SOURCES.findall(sql) for word in re.findall(r"\w+", source)}
    return [table for table in tables if table.lower() in words]
