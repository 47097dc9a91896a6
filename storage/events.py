"""Appends to the record of state changes. Standard library only."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from storage.encoding import dumps


def add_event(
    connection: sqlite3.Connection,
    at: float,
    kind: str,
    run_id: str | None,
    attempt: int | None = None,
    data: Mapping[str, Any] | None = None,
    *,
    ablation_id: str | None = None,
) -> None:
    """Append one change of state, inside the transaction that makes it."""
    connection.execute(
        "INSERT INTO event (at, kind, run_id, ablation_id, attempt, data) VALUES (?, ?, ?, ?, ?, ?)",
        (at, kind, run_id, ablation_id, attempt, dumps(data or {})),
    )
