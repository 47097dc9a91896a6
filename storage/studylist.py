"""The list of ablations with their runs counted. Standard library only."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from functools import lru_cache
from typing import Any

from storage.rows import ENDED, AblationRow
from storage.status import by_status

_SELECT = "SELECT num, id, name, question, metric, direction, created_at, archived, note, secondary, axes, seeds, spec FROM ablation"
_COUNTS = f"""
SELECT ablation_id, archived, status, COUNT(*),
       SUM(CASE WHEN status IN {ENDED} THEN 1.0
                WHEN total_steps > 0 THEN MIN(1.0, 1.0 * step / total_steps) ELSE 0.0 END)
FROM run WHERE ablation_id {{which}} GROUP BY ablation_id, archived, status"""  # noqa: S608 - literals

Counted = tuple[bool, str, int, float]


def select_ablations(
    connection: sqlite3.Connection, *, ablation_id: str | None = None, include_archived: bool = False
) -> list[AblationRow]:
    """Return ablations, newest first; or the one of that id, archived or not."""
    if ablation_id is None:
        where = "1" if include_archived else "NOT archived"
        rows = connection.execute(f"{_SELECT} WHERE {where} ORDER BY num DESC").fetchall()
        counts = connection.execute(_COUNTS.format(which="IS NOT NULL"))
    else:
        rows = connection.execute(f"{_SELECT} WHERE id = ?", (ablation_id,)).fetchall()
        counts = connection.execute(_COUNTS.format(which="= ?"), (ablation_id,))
    counted: defaultdict[str, list[Counted]] = defaultdict(list)
    for owner, *count in counts:
        counted[owner].append((bool(count[0]), count[1], count[2], count[3]))
    return [_ablation(row, counted[row[1]]) for row in rows]


def _ablation(row: tuple[Any, ...], counted: list[Counted]) -> AblationRow:
    """Make an ablation. An archived one counts all its runs, any other leaves archived runs out."""
    num, id_, name, question, metric, direction, created_at, archived, note, secondary, axes, seeds, spec = row
    counts: dict[str, int] = {}
    progress = 0.0
    for hidden, status, count, done in counted:
        if archived or not hidden:
            counts[status] = counts.get(status, 0) + count
            progress += done
    total = sum(counts.values())
    return AblationRow(
        num=num,
        id=id_,
        name=name,
        question=question,
        metric=metric,
        direction=direction,
        secondary=_listed(secondary),
        axes=_listed(axes),
        seeds=_listed(seeds),
        created_at=created_at,
        archived=bool(archived),
        note=note,
        runs_total=total,
        counts=by_status(counts),
        progress=progress / total if total else 0.0,
        spec=_parsed(spec),
    )


# A terminal UI reads the list twice a second, and what an ablation asks never changes: parsing the texts of four hundred
# anew took 10 ms each time, during which no key was answered. What is handed out is shared, and nobody changes it.
@lru_cache(maxsize=1024)
def _parsed(text: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(text)
    return tree


@lru_cache(maxsize=1024)
def _listed(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text))
