"""`mambalab query`."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

COUNTS = "SELECT status, COUNT(*) AS n FROM v_runs GROUP BY status ORDER BY status"


def test_a_table_in_a_pipe_is_tab_separated(call: Call, lab: Lab) -> None:
    done = call("query", COUNTS)
    assert done.code == 0
    assert done.stdout.splitlines() == ["status\tn", "completed\t2", "failed\t1", "queued\t1", "running\t1"]


def test_csv_and_json(call: Call, lab: Lab) -> None:
    sql = "SELECT seed, error, 0.1 + 0.2 AS sum FROM v_runs WHERE status = 'completed' ORDER BY seed"
    rows = list(csv.reader(io.StringIO(call("query", sql, "--format", "csv").stdout)))
    assert rows == [["seed", "error", "sum"], ["0", "", "0.30000000000000004"], ["1", "", "0.30000000000000004"]]
    assert call("query", sql, "--json").json[0] == {"seed": 0, "error": None, "sum": 0.1 + 0.2}
    assert call("query", sql, "--format", "json").json == call("query", sql, "--json").json


def test_bytes_and_line_breaks_do_no_harm(call: Call, lab: Lab) -> None:
    sql = "SELECT x'00ff' AS raw, 'two' || char(10) || 'lines' AS text"
    assert call("query", sql).stdout.splitlines() == ["raw\ttext", "00ff\ttwo lines"]
    assert json.loads(call("query", sql, "--json").stdout) == [{"raw": "00ff", "text": "two\nlines"}]


def test_a_limit_is_never_silent(call: Call, lab: Lab) -> None:
    done = call("query", "SELECT id FROM v_runs", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3
    assert "only the first 2 rows" in done.stderr
    whole = call("query", "SELECT id FROM v_runs", "--limit", "0")
    assert len(whole.stdout.splitlines()) == 6
    assert whole.stderr == ""


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DELETE FROM run", "only reads"),
        ("UPDATE run SET status = 'completed'", "only reads"),
        ("DROP TABLE run", "only reads"),
        ("ATTACH 'x.db' AS x", "only reads"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT * FROM v_run", "v_runs"),
        ("SELECT stat FROM v_runs", "status"),
        ("SELEC 1", "syntax error"),
        ("", "no statement"),
        (
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) FROM n",
            "took longer than 0.05 s",
        ),
    ],
)
def test_what_does_not_only_read_is_bad_input(call: Call, lab: Lab, sql: str, told: str) -> None:
    before = lab.paths.database.read_bytes()
    done = call("query", sql, "--timeout", "0.05")
    assert done.code == 2
    assert told in done.stderr
    assert done.stdout == ""
    assert lab.paths.database.read_bytes() == before
    assert call("ls").code == 0


def test_json_keeps_columns_that_share_a_name(call: Call, lab: Lab) -> None:
    done = call("query", "SELECT 1 AS id, 2 AS id, 3 AS id_2", "--json")
    assert done.json == [{"id": 1, "id_3": 2, "id_2": 3}]


def test_large_numbers_keep_their_digits(call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time in seconds was written 1.7641e+09."""
    statement = "SELECT 1764097222.125 AS at, 0.123456789 AS share"
    assert call("query", statement).stdout == "at\tshare\n1764097222.12\t0.123456789\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert call("query", statement).stdout.split() == ["at", "share", "─" * 10, "─" * 8, "1764097222", "0.123457"]
