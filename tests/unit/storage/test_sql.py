"""The console answers whatever reads, refuses whatever would not, and says what was meant."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.errors import NotReadOnly, QueryFailed, StoreMissing
from storage.home import HomePaths
from storage.repository import Repository
from storage.schema import SCHEMA_VERSION
from storage.sql import run_query
from tests.unit.storage.lab import new_run, submit

WRITES = [
    "INSERT INTO tag VALUES ('a', 'b', 1)",
    "REPLACE INTO tag VALUES ('a', 'b', 1)",
    "WITH one AS (SELECT 'a' AS id) INSERT INTO tag SELECT id, 'b', 1 FROM one",
    "UPDATE run SET status = 'completed'",
    "DELETE FROM run",
    "DELETE FROM run RETURNING id",
    "EXPLAIN DELETE FROM run",
    "UPDATE sqlite_master SET sql = ''",
    "INSERT INTO sqlite_schema SELECT * FROM sqlite_master",
    "INSERT INTO v_runs (id) VALUES ('a')",
    "DROP TABLE run",
    "DROP VIEW v_runs",
    "DROP INDEX run_queue",
    "DROP TRIGGER run_changed",
    "CREATE TABLE t (x)",
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t (x)",
    "CREATE VIEW v AS SELECT 1",
    "CREATE TEMP VIEW v AS SELECT 1",
    "CREATE INDEX i ON run (seed)",
    "CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM tag; END",
    "CREATE VIRTUAL TABLE t USING fts5 (x)",
    "ALTER TABLE run ADD COLUMN x",
    "ALTER TABLE run RENAME TO walk",
    "ATTACH 'other.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA journal_mode(DELETE)",
    "PRAGMA user_version = 7",
    "PRAGMA writable_schema = ON",
    "PRAGMA query_only = OFF",
    "PRAGMA wal_checkpoint",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA temp_store_directory = '/'",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "SELECT load_extension('evil')",
    "SELECT LOAD_EXTENSION('evil')",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run where a file that a statement made would show."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("statement", WRITES)
def test_what_writes_is_refused(repository: Repository, paths: HomePaths, statement: str) -> None:
    submit(repository)
    repository.close()
    before = paths.database.read_bytes()
    with pytest.raises(NotReadOnly, match="the console only reads, and this statement asks for"):
        run_query(paths, statement)
    assert paths.database.read_bytes() == before


@pytest.mark.parametrize("statement", ["SELECT 1; DROP TABLE run", "SELECT 1; SELECT 2", "DELETE FROM tag; SELECT 1"])
def test_a_second_statement_is_refused(paths: HomePaths, statement: str) -> None:
    with pytest.raises(QueryFailed):
        run_query(paths, statement)
    assert run_query(paths, "SELECT COUNT(*) FROM run").rows == [(0,)]


@pytest.mark.parametrize("statement", ["", "  ", ";", "-- nothing", "/* nothing */"])
def test_nothing_is_not_a_statement(paths: HomePaths, statement: str) -> None:
    with pytest.raises(QueryFailed, match="no statement to run"):
        run_query(paths, statement)


@pytest.mark.parametrize(
    ("statement", "columns", "rows"),
    [
        ("SELECT seed, status FROM v_runs ORDER BY seed", ["seed", "status"], [(0, "queued"), (1, "queued")]),
        ("SELECT json_extract(spec, '$.model.d_state') AS size FROM run WHERE seed = 1;", ["size"], [(8,)]),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT SUM(i) AS s FROM n",
            ["s"],
            [(6,)],
        ),
        ("SELECT value FROM json_each('[7]')", ["value"], [(7,)]),
        ("SELECT name FROM pragma_table_info('tag') LIMIT 1", ["name"], [("run_id",)]),
        ("PRAGMA user_version", ["user_version"], [(SCHEMA_VERSION,)]),
        ("VALUES (1, 'a')", ["column1", "column2"], [(1, "a")]),
        ("SELECT 1 AS x WHERE 0", ["x"], []),
    ],
    ids=["view", "json", "recursive", "json_each", "describe", "pragma", "values", "no rows"],
)
def test_what_reads_is_answered(
    repository: Repository, paths: HomePaths, statement: str, columns: list[str], rows: list[tuple[object, ...]]
) -> None:
    submit(repository, new_run(0), new_run(1))
    result = run_query(paths, statement)
    assert (result.columns, result.rows, result.truncated) == (columns, rows, False)


def test_describing_pragmas_and_plans(paths: HomePaths) -> None:
    assert run_query(paths, "PRAGMA table_info(run)").rows
    assert run_query(paths, "EXPLAIN QUERY PLAN SELECT * FROM v_runs").rows


def test_parameters(paths: HomePaths) -> None:
    assert run_query(paths, "SELECT ? + 1", parameters=[2]).rows == [(3,)]
    assert run_query(paths, "SELECT :x", parameters={"x": "it's"}).rows == [("it's",)]
    with pytest.raises(QueryFailed, match="(?i)binding"):
        run_query(paths, "SELECT ?")


def test_a_limit_says_that_there_was_more(paths: HomePaths) -> None:
    statement = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n"
    assert run_query(paths, statement, limit=2) == run_query(paths, f"{statement} LIMIT 9", limit=2)
    result = run_query(paths, statement, limit=2)
    assert (result.rows, result.truncated) == ([(1,), (2,)], True)
    assert not run_query(paths, statement, limit=3).truncated


def test_an_endless_query_is_stopped(paths: HomePaths) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(QueryFailed, match="took longer than 0.05 s and was stopped"):
        run_query(paths, endless, timeout_s=0.05)
    with pytest.raises(QueryFailed, match="the query was stopped"):
        run_query(paths, endless, stopped=lambda: True)


def test_ctrl_c_ends_a_query_as_an_interrupt(paths: HomePaths, repository: Repository) -> None:
    del repository

    def interrupt() -> bool:
        raise KeyboardInterrupt

    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(KeyboardInterrupt):
        run_query(paths, endless, stopped=interrupt)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT * FROM v_run", "no such table: v_run. Did you mean 'v_runs'?"),
        (
            "SELECT * FROM xyzzy",
            "no such table: xyzzy. Views made for reading: v_ablation, v_latest, v_metrics, v_runs",
        ),
        ("SELECT statu FROM run", "no such column: statu. Did you mean 'status'?"),
        ("SELECT r.trail_label FROM run r", "no such column: r.trail_label. Did you mean 'trial_label'?"),
        ("SELECT tag.nam FROM tag", "no such column: tag.nam. Did you mean 'name'?"),
        ("SELECT qqqqqq FROM run", "no such column: qqqqqq"),
        ("SELECT trial_label FROM v_runs", "no such column: trial_label. Did you mean 'trial'?"),
        ("SELECT trial_labl, attempt FROM tag, v_runs", "no such column: trial_labl. Did you mean 'trial'?"),
        ("SELECT trial_label FROM tag", "no such column: trial_label"),
        ("SELECT x.status FROM run r", "no such column: x.status"),
        ("SELECT handl FROM v_runs", "no such column: handl"),
        ("SELECT handl\nFROM v_runs AS r JOIN\nattempt a ON 1", "no such column: handl. Did you mean 'handle'?"),
        ("SELECT 1 FROM (SELECT handl FROM Attempt) LIMIT 1", "no such column: handl. Did you mean 'handle'?"),
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT zeroblob(999999999)", "string or blob too big"),
        ("SELECT nosuch(1)", "no such function: nosuch"),
    ],
)
def test_the_nearest_name_is_offered(paths: HomePaths, statement: str, message: str) -> None:
    with pytest.raises(QueryFailed) as caught:
        run_query(paths, statement)
    assert str(caught.value) == message


def test_reading_while_another_writes(repository: Repository, paths: HomePaths) -> None:
    submit(repository)
    with closing(sqlite3.connect(paths.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE run SET status = 'completed'")
        assert run_query(paths, "SELECT status FROM run").rows == [("queued",)]
        other.execute("COMMIT")
    assert run_query(paths, "SELECT status FROM run").rows == [("completed",)]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        run_query(HomePaths(tmp_path / "nowhere"), "SELECT 1")
