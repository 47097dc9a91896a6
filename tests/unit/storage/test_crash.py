"""A process that is killed in the middle of a transaction leaves everything before it, and nothing of it."""

from __future__ import annotations

import signal

import pytest

from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from tests.unit.storage.lab import begin, piece, rows_of, start_python, submit

# dies at the third call of one function of storage.recording, after it has written
WRITER = """
import os, signal, sys
from storage import recording
from storage.home import HomePaths
from storage.repository import RecordBatch, Repository
name, calls = sys.argv[3], 0
real = getattr(recording, name)
def dying(*arguments):
    global calls
    calls += 1
    result = real(*arguments)
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(recording, name, dying)
with Repository(HomePaths(sys.argv[1])) as repository:
    for step in range(1, 10):
        rows = [(float(step), step, {"a": float(step), f"key-{step}": 1.0})]
        repository.record(sys.argv[2], 1, RecordBatch(rows, cursor=step, notes=[(1.0, "fact", {"step": step})]))
"""


@pytest.mark.parametrize("place", ["fence", "packed_latest", "_store_metrics", "_store_notes"])
def test_a_kill_in_the_middle_of_a_transaction(repository: Repository, paths: HomePaths, place: str) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    repository.close()
    process = start_python(WRITER, str(paths.root), run_id, place)
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    assert rows_of(paths, "PRAGMA integrity_check") == [("ok",)]
    assert rows_of(paths, 'SELECT "offset" FROM spool_cursor') == [(2,)]
    with Reader(paths) as reader:
        assert list(reader.series(run_id, "a").values) == [1.0, 2.0]
        assert reader.run(run_id).metrics == {"a": 2.0, "key-1": 1.0, "key-2": 1.0}
        assert reader.run_facts(run_id) == {"fact": {"step": 2}}
        assert not repository.record(run_id, 1, piece(2, (2, {"a": 0.0})))
        assert repository.record(run_id, 1, piece(3, (3, {"a": 3.0})))
        assert list(reader.series(run_id, "a").values) == [1.0, 2.0, 3.0]
