"""Small stores to test with: runs, pieces of spools, and what a store holds, read without the code under test."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from storage.home import HomePaths
from storage.records import NewAblation, NewProvenance, NewRun, RecordBatch
from storage.repository import Repository

ROOT = Path(__file__).parents[3]
PROVENANCE = NewProvenance(
    command="mambalab submit demo",
    directory="/lab",
    hostname="host",
    python="3.12",
    versions={"torch": "2.13.0"},
    git_sha="abc",
    git_dirty=True,
    git_diff="+ a line",
)


def new_run(seed: int = 0, **changes: Any) -> NewRun:
    """Return a run to queue."""
    fields: dict[str, Any] = {
        "name": "demo",
        "spec": {"model": {"d_state": 8, "inner": "s6"}, "seed": seed},
        "spec_hash": f"hash-{seed}",
        "seed": seed,
        "total_steps": 100,
        "max_attempts": 3,
    }
    return NewRun(**{**fields, **changes})


def new_ablation(name: str = "demo", **changes: Any) -> NewAblation:
    """Return an ablation to store."""
    fields: dict[str, Any] = {
        "name": name,
        "question": "Does it matter?",
        "spec": {"name": name, "baseline": {"model": {"inner": "s6"}}},
        "metric": "valid/accuracy",
        "direction": "max",
        "secondary": ("valid/loss",),
        "axes": ("inner",),
        "seeds": (0, 1),
    }
    return NewAblation(**{**fields, **changes})


def submit(repository: Repository, *runs: NewRun) -> tuple[str, ...]:
    """Queue runs without an ablation, one where none is given, and return their ids."""
    return repository.submit(ablation=None, runs=runs or (new_run(),), provenance=PROVENANCE).run_ids


def begin(repository: Repository, run_id: str, now: float = 1000.0) -> int:
    """Start the run's next attempt and return its number."""
    number = repository.begin_attempt(run_id, executor="inline", now=now)
    assert number is not None
    return number


def piece(cursor: int, *rows: tuple[int, Mapping[str, float]], notes: Sequence[tuple[str, Any]] = ()) -> RecordBatch:
    """Return a piece of a spool that ends at `cursor`; row and note are logged at 1000 s and their step or place."""
    return RecordBatch(
        rows=[(1000.0 + step, step, values) for step, values in rows],
        notes=[(1000.0 + place, kind, payload) for place, (kind, payload) in enumerate(notes)],
        cursor=cursor,
        heartbeat_at=1000.0 + cursor,
    )


def rows_of(paths: HomePaths, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return what a plain connection reads."""
    with closing(sqlite3.connect(paths.database)) as connection:
        return connection.execute(query, parameters).fetchall()


def execute(paths: HomePaths, statement: str, *parameters: Any) -> None:
    """Write with a plain connection, as another program would."""
    with closing(sqlite3.connect(paths.database)) as connection, connection:
        connection.execute(statement, parameters)


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start an interpreter of its own on a piece of code, in the checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
