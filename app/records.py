"""Runs and ablations as plain JSON, the same for every verb that lists them."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.queries import AblationRow, RunRow

_LARGE = {"spec", "spec_json", "_config"}  # `show` prints the spec; a list of a thousand runs does without


def run_record(run: RunRow) -> dict[str, Any]:
    """Return a run as JSON, its spec left out."""
    return {**_shallow(run), "duration_s": run.duration_s, "progress": run.progress}


def ablation_record(ablation: AblationRow) -> dict[str, Any]:
    """Return an ablation as JSON, its spec left out."""
    return _shallow(ablation)


def record(row: Any) -> dict[str, Any]:
    """Return a small row of the store, such as an event, as JSON."""
    return asdict(row)


def _shallow(row: Any) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row) if field.name not in _LARGE}
