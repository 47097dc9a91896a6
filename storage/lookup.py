"""From what a user types to an id: exact ids and names, unique prefixes, and the nearest one in the error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Literal

from storage.errors import AmbiguousPrefix, NotFound

Kind = Literal["ablation", "run"]


def resolve_run(connection: sqlite3.Connection, ref: str) -> str:
    """Return the id of the run whose id is `ref` or alone starts with it.

    Raises:
        NotFound: none does; the message names the nearest id.
        AmbiguousPrefix: several do.
    """
    matches = _starting_with(connection, "run", ref)
    if not matches:
        raise _not_found("run", ref, _ids(connection, "run"), "`mambalab ls` lists the runs.")
    return _only(ref, matches)


def resolve_ablation(connection: sqlite3.Connection, ref: str) -> str:
    """Return the id of the newest ablation named `ref`, or of the one whose id is or alone starts with it.

    Raises:
        NotFound, AmbiguousPrefix: as `resolve_run`.
    """
    named = _newest_named(connection, ref)
    if named is not None:
        return named
    matches = _starting_with(connection, "ablation", ref)
    if not matches:
        known = [*_names(connection), *_ids(connection, "ablation")]
        raise _not_found("ablation", ref, known, "`mambalab ls ablations` lists them.")
    return _only(ref, matches)


def resolve(connection: sqlite3.Connection, ref: str) -> tuple[Kind, str]:
    """Return kind and id of what `ref` names: an ablation's name first, then the ids of ablations and runs alike.

    Raises:
        NotFound, AmbiguousPrefix: as `resolve_run`.
    """
    named = _newest_named(connection, ref)
    if named is not None:
        return "ablation", named
    ablations = _starting_with(connection, "ablation", ref)
    runs = _starting_with(connection, "run", ref)
    if not ablations and not runs:
        known = [*_names(connection), *_ids(connection, "ablation"), *_ids(connection, "run")]
        raise _not_found("run or ablation", ref, known, "`mambalab ls` lists runs, `mambalab ls ablations` ablations.")
    found = _only(ref, [*ablations, *runs])
    return ("ablation" if found in ablations else "run"), found


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word most like `word`, if any is."""
    from difflib import get_close_matches  # needed only on the way to an error

    matches = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _newest_named(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT id FROM ablation WHERE name = ? ORDER BY num DESC LIMIT 1", (name,)).fetchone()
    return None if row is None else str(row[0])


def _starting_with(connection: sqlite3.Connection, table: Kind, prefix: str) -> list[str]:
    """Return the ids with a prefix, in order; the exact id alone where there is one. Nothing starts with nothing."""
    if not prefix:
        return []
    query = f"SELECT id FROM {table} WHERE id >= ? AND id < ? ORDER BY id"  # noqa: S608 - one of two literals
    # a range, not LIKE: it uses the unique index, and % and _ are letters like others
    found = [str(row[0]) for row in connection.execute(query, (prefix, prefix + "\U0010ffff"))]
    return [prefix] if prefix in found else found


def _only(prefix: str, matches: Sequence[str]) -> str:
    if len(matches) > 1:
        raise AmbiguousPrefix(prefix, matches)
    return matches[0]


def _ids(connection: sqlite3.Connection, table: Kind) -> list[str]:
    return [str(row[0]) for row in connection.execute(f"SELECT id FROM {table}")]  # noqa: S608 - one of two literals


def _names(connection: sqlite3.Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute("SELECT DISTINCT name FROM ablation")]


def _not_found(what: str, ref: str, known: Iterable[str], hint: str) -> NotFound:
    near = nearest(ref, known)
    meant = f" Did you mean {near!r}?" if near else ""
    return NotFound(f"no {what} {ref!r}.{meant} {hint}")
