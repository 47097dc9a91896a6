"""A run or an ablation as a page of plain text. What is empty is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.formats import ago, clock, duration, number, steps

if TYPE_CHECKING:
    from storage.queries import AblationRow, Reader, RunRow


def describe_run(store: Reader, run_id: str, *, events: int) -> str:
    """Return all that the store knows of a run, the last `events` of its events included."""
    run = store.run(run_id)
    blocks = [
        _pairs(f"run {run.id}", _head(run)),
        _pairs(
            "metrics",
            [(key, f"{number(latest.value)} @ {latest.step}") for key, latest in _sorted(store.latest(run_id))],
        ),
        _pairs("spec", [(key, _value(value)) for key, value in run.config.items()]),
        _pairs("facts", [(kind, _value(value)) for kind, value in _sorted(store.run_facts(run_id))]),
        _pairs("provenance", _provenance(store, run_id)),
        _attempts(store, run_id),
        _pairs("checkpoints", [(str(row.step), f"{row.path}  {clock(row.at)}") for row in store.checkpoints(run_id)]),
        _pairs("requests", [(row.kind, f"{row.status}  {row.outcome or ''}") for row in store.requests(run_id)]),
        _pairs("notes", [(clock(row.created_at), row.body) for row in store.notes(run_id)]),
        _events(store, run_id, events),
        _failure(store, run),
    ]
    return "\n\n".join(block for block in blocks if block)


def describe_ablation(ablation: AblationRow, runs: Sequence[RunRow]) -> str:
    """Return an ablation's question, axes and runs."""
    counts = ", ".join(f"{count} {status}" for status, count in ablation.counts.items() if count)
    head = [
        ("question", ablation.question),
        ("metric", f"{ablation.metric} ({ablation.direction})"),
        ("also", ", ".join(ablation.secondary)),
        ("axes", " x ".join(ablation.axes)),
        ("seeds", ", ".join(str(seed) for seed in ablation.seeds)),
        ("runs", f"{ablation.runs_total}: {counts}"),
        ("progress", f"{ablation.progress:.0%}"),
        ("created", _when(ablation.created_at)),
        ("archived", "yes" if ablation.archived else ""),
        ("note", ablation.note),
    ]
    rows = [
        (
            run.id,
            f"{run.trial_label} · seed {run.seed}",
            run.status,
            steps(run.step, run.total_steps),
            number(run.metrics.get(ablation.metric)),
            run.error or "",
        )
        for run in runs
    ]
    return f"{_pairs(f'ablation {ablation.name}  {ablation.id}', head)}\n\n{_grid('runs', rows)}"


def _head(run: RunRow) -> list[tuple[str, str]]:
    reason = f" ({run.reason})" if run.reason else ""
    return [
        ("ablation", run.ablation or ""),
        ("trial", run.trial_label or run.name),
        ("seed", str(run.seed)),
        ("status", f"{run.status}{reason}"),
        ("attempt", f"{run.attempt} of {run.max_attempts}"),
        ("step", steps(run.step, run.total_steps)),
        ("created", _when(run.created_at)),
        ("started", clock(run.started_at)),
        ("finished", clock(run.finished_at)),
        ("heartbeat", _when(run.heartbeat_at) if run.status == "running" else ""),
        ("duration", duration(run.duration_s)),
        ("tags", ", ".join(run.tags)),
        ("archived", "yes" if run.archived else ""),
    ]


def _provenance(store: Reader, run_id: str) -> list[tuple[str, str]]:
    row = store.provenance(run_id)
    if row is None:
        return []
    lines = len((row.git_diff or "").splitlines())
    state = f", changed ({lines} lines of diff kept)" if row.git_dirty else ""
    return [
        ("git", f"{row.git_sha}{state}" if row.git_sha else ""),
        ("command", row.command),
        ("directory", row.directory),
        ("host", row.hostname),
        ("python", row.python),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(row.versions.items()))),
    ]


def _attempts(store: Reader, run_id: str) -> str:
    rows = []
    for row in store.attempts(run_id):
        resumed = f"from step {row.resumed_from}" if row.resumed_from else ""
        spent = duration(row.finished_at - row.started_at) if row.finished_at else "since " + clock(row.started_at)
        rows.append((str(row.number), row.status, row.executor, spent, resumed, row.error or row.reason or ""))
    return _grid("attempts", rows)


def _events(store: Reader, run_id: str, last: int) -> str:
    found = store.events(run_id)[-last:]
    rows = [(clock(row.at), row.kind, _value(row.data) if row.data else "") for row in found]
    return _grid("events", rows)


def _failure(store: Reader, run: RunRow) -> str:
    if run.status != "failed":
        return ""
    told = [row.traceback for row in store.attempts(run.id) if row.traceback]
    story = told[-1].rstrip() if told else ""
    return f"failed: {run.error or run.reason or 'no reason was recorded'}\n{story}".rstrip()


def _when(at: float | None) -> str:
    return "" if at is None else f"{clock(at)} ({ago(at)})"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _sorted(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(mapping.items())


def _pairs(title: str, pairs: Iterable[tuple[str, str]]) -> str:
    shown = [(key, value) for key, value in pairs if value]
    if not shown:
        return ""
    width = max(len(key) for key, _ in shown)
    return "\n".join([title, *(f"  {key:<{width}}  {value}" for key, value in shown)])


def _grid(title: str, rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join([title, *(f"  {line}" for line in lines)])
