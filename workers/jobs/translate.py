"""Between the store's records and what executors understand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from storage.home import HomePaths
from storage.records import RecordBatch
from workers.jobs.attempt import AttemptSpec
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Report
from workers.jobs.ledger import Placement, Share
from workers.jobs.settings import ControllerSettings
from workers.jobs.spool import parse


def to_batch(report: Report) -> RecordBatch:
    """Return a report's piece of the spool as the store takes it. Lines that cannot be read become warnings."""
    batch = parse(report.spool)
    at = batch.last_at or 0.0
    notes = [(note.at, note.name, note.payload) for note in batch.notes]
    notes += [(at, "warning", {"message": f"unreadable line of the spool: {text}"}) for text in batch.damaged]
    return RecordBatch(
        rows=[(line.at, line.step, line.values) for line in batch.metrics],
        notes=notes,
        cursor=report.cursor,
        heartbeat_at=batch.last_at,
    )


def attempt_spec(
    paths: HomePaths,
    name: tuple[str, int],
    spec: Mapping[str, Any],
    placement: Placement,
    settings: ControllerSettings,
) -> AttemptSpec:
    """Return what an executor is handed for the attempt of that run and number."""
    run_id, number = name
    return AttemptSpec(
        run_id,
        number,
        run_directory=str(paths.run_dir(run_id)),
        directory=str(paths.attempt(run_id, number).directory),
        spec=spec,
        cpus=placement.share.cpus,
        gpus=placement.share.gpus,
        node=placement.node,
        devices=placement.devices,
        trial=settings.trial,
        ensemble=settings.ensemble,
    )


def timeout_of(spec: Mapping[str, Any]) -> float | None:
    """Return how long an attempt at a run may take, in seconds; None for no limit."""
    timeout = spec.get("resources", {}).get("timeout_s")
    return None if timeout is None else float(timeout)


def pack_handle(handle: str, placement: Placement) -> str:
    """Return the handle to store: the executor's own, and the share that the attempt holds."""
    share = placement.share
    return json.dumps(
        {
            "handle": handle,
            "node": placement.node,
            "devices": list(placement.devices),
            "cpus": share.cpus,
            "gpus": share.gpus,
            "pack": placement.pack,
        }
    )


def unpack_handle(text: str) -> tuple[str, Placement]:
    """Read what `pack_handle` made. Raises ExecutorError for anything else."""
    try:
        tree = json.loads(text)
        share = Share(float(tree["cpus"]), float(tree["gpus"]))
        return str(tree["handle"]), Placement(
            str(tree["node"]), tuple(tree["devices"]), share, str(tree.get("pack", ""))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExecutorError(f"expected a stored handle of an attempt, got {text!r}") from error
