"""A run in words: what panes beside the lists and the run's tabs show."""

from __future__ import annotations

import json
from collections.abc import Mapping

from storage.rows import RunRow
from tui.format import bar, bytes_size, clock_time, count_label, duration, number, plain
from tui.messages import Detail
from tui.progress import PROBE, eta_of, is_silent, share_of
from tui.theme import STATUS_GLYPHS
from tui.widgets.text_view import TextLine

LABEL = 14


def labelled(label: str, value: str, color: str = "", *, width: int = LABEL) -> TextLine:
    """Return a line with a muted label."""
    return [(f"{label:<{width}} ", "muted"), (value, color)]


def run_title(run: RunRow) -> str:
    """Return a run's name in full: ablation, trial and seed."""
    return " · ".join(filter(None, (run.ablation or run.name, run.trial_label, f"seed {run.seed}")))


def run_lines(run: RunRow, now: float, metric: str) -> list[TextLine]:
    """Return a run at a glance, for the pane beside the list."""
    lines: list[TextLine] = [[(run_title(run), "accent")], labelled("id", run.id)]
    status = "silent, no sign of life" if is_silent(run, now) else run.status
    lines.append(labelled("status", f"{STATUS_GLYPHS.get(run.status, '?')} {status}", run.status))
    total = f" of {count_label(run.total_steps)}" if run.total_steps else ""
    filled, rest = bar(share_of(run), 10)
    lines.append([(f"{'step':<{LABEL}} ", "muted"), (filled, run.status), (rest, "faint"),
                  (f" {count_label(run.step)}{total}", "")])  # fmt: skip
    if (eta := eta_of(run, now)) is not None:
        lines.append(labelled("done in", duration(eta)))
    if run.duration_s is not None:
        lines.append(labelled("took", duration(run.duration_s)))
    if run.ablation:
        lines.append(labelled("ablation", run.ablation))
    lines += [labelled(axis, label) for axis, label in run.axis_labels.items()]
    lines.append(labelled("seed", str(run.seed)))
    if run.tags:
        lines.append(labelled("tags", " ".join(run.tags), "best"))
    if run.attempt > 1:
        lines.append(labelled("attempt", f"{run.attempt} of {run.max_attempts}", "warning"))
    if run.error or (run.reason and run.status != "completed"):
        lines += [[], [(": ".join(filter(None, (run.reason, run.error))), "failed")]]
    elif run.reason:
        lines.append(labelled("ended by", run.reason))
    shown = {key: value for key, value in run.metrics.items() if not key.startswith(PROBE)}
    if shown:
        lines += [[], [("metrics", "accent")]]
        for key, value in sorted(shown.items(), key=lambda item: _metric_rank(item[0], metric)):
            lines.append([(f"{key:<22} ", "muted"), (number(value, 5), "best" if key == metric else "")])
    if len(shown) < len(run.metrics):
        lines += [[], [("it has probes: M opens the lens", "muted")]]
    return lines


def _metric_rank(key: str, deciding: str) -> tuple[bool, bool, str]:
    return key != deciding, key.startswith("system/"), key


def machine_line(run: RunRow, facts: Mapping[str, object]) -> TextLine:
    """Return what is known of the machine that a run uses, and why no GPU is looked at where none is."""
    noted = facts.get("system")
    if not isinstance(noted, dict):
        off = run.config.get("resources.sample_every_s") == 0
        return [
            (" not looked at: resources.sample_every_s is 0" if off else " nothing noted of the machine yet", "muted")
        ]
    pieces = [(f" {noted.get('cpus', '?')} CPUs, ", "")]
    memory = noted.get("memory_mb")
    pieces.append((f"{bytes_size(int(memory * 2**20))}  " if isinstance(memory, int | float) else "", ""))
    gpu = plain(noted.get("gpu", "not known"))
    pieces.append((f"GPU {gpu}", "warning" if gpu.startswith("none") else "accent"))
    if silent := noted.get("not offered"):
        pieces.append((f"  not offered: {', '.join(str(key).removeprefix('system/') for key in silent)}", "muted"))
    if ended := noted.get("ended"):
        pieces.append((f"  {plain(ended)}", "failed"))
    return pieces


def config_lines(config: Mapping[str, object]) -> list[TextLine]:
    """Return a configuration by its first part, keys in order."""
    lines: list[TextLine] = []
    section = ""
    for key, value in config.items():
        head, _, tail = key.partition(".")
        if not tail:
            head, tail = "run", key
        if head != section:
            section = head
            lines += [*([[]] if lines else []), [(section, "accent")]]
        lines.append([(f"  {tail:<20} ", "muted"), (plain(value), "")])
    return lines


def event_lines(detail: Detail) -> list[TextLine]:
    """Return attempts, requests, notes and events, newest of each last."""
    lines: list[TextLine] = [[("attempts", "accent")]]
    for attempt in detail.attempts:
        end = attempt.finished_at or detail.run.heartbeat_at
        took = duration(end - attempt.started_at) if end else ""
        resumed = f", resumed from step {attempt.resumed_from}" if attempt.resumed_from else ""
        glyph = STATUS_GLYPHS.get(attempt.status, "?")
        lines.append([(f"  {attempt.number}  ", "muted"), (f"{glyph} {attempt.status:<10}", attempt.status),
                      (f" {clock_time(attempt.started_at)}  {took:<7} {attempt.executor}{resumed}", "")])  # fmt: skip
        if attempt.error or attempt.reason:
            code = f" (exit code {attempt.exit_code})" if attempt.exit_code is not None else ""
            lines.append([(f"     {attempt.reason or ''}{code}: {attempt.error or ''}", "failed")])
        lines += [[(f"     {line}", "muted")] for line in (attempt.traceback or "").rstrip().splitlines()]
    if not detail.attempts:
        lines.append([("  none yet: the run waits in the queue", "muted")])
    if detail.checkpoints:
        lines += [[], [("checkpoints", "accent")]]
        lines += [[(f"  step {row.step:<8}", ""), (f" {bytes_size(row.bytes):>10}  {row.path}", "muted")]
                  for row in detail.checkpoints]  # fmt: skip
    if detail.notes:
        lines += [[], [("notes", "accent")]]
        lines += [[(f"  {clock_time(row.created_at)}  ", "muted"), (row.body, "")] for row in detail.notes]
    if detail.requests:
        lines += [[], [("requests", "accent")]]
        lines += [[(f"  {clock_time(row.created_at)}  ", "muted"), (f"{row.kind} {row.status} {row.outcome or ''}", "")]
                  for row in detail.requests]  # fmt: skip
    lines += [[], [("events", "accent")]]
    for event in detail.events:
        extra = " ".join(f"{key}={plain(value)}" for key, value in event.data.items())
        lines.append([(f"  {clock_time(event.at)}  ", "muted"), (f"{event.kind:<12} ", ""), (extra, "muted")])
    return lines


def origin_lines(detail: Detail) -> list[TextLine]:
    """Return what a run noted of itself, and where its submission came from."""
    lines: list[TextLine] = []
    for kind, fact in detail.facts.items():
        lines += [*([[]] if lines else []), [(kind, "accent")]]
        pairs = fact.items() if isinstance(fact, dict) else [("value", fact)]
        lines += [[(f"  {key:<20} ", "muted"), (_short(value), "")] for key, value in pairs]
    origin = detail.provenance
    if origin is None:
        return lines or [[("nothing noted yet", "muted")]]
    lines += [*([[]] if lines else []), [("provenance", "accent")]]
    dirty = {True: " with uncommitted changes", False: "", None: ""}[origin.git_dirty]
    lines += [
        labelled("  command", origin.command, width=22),
        labelled("  folder", origin.directory, width=22),
        labelled("  host", origin.hostname, width=22),
        labelled("  git", f"{origin.git_sha or 'none'}{dirty}", "warning" if dirty else "", width=22),
        labelled("  python", origin.python, width=22),
        labelled("  submitted", clock_time(origin.created_at), width=22),
    ]
    lines += [labelled(f"  {name}", plain(version), width=22) for name, version in origin.versions.items()]
    if origin.git_diff:
        lines += [[], [("uncommitted changes", "accent")]]
        colors = {"+": "good", "-": "bad", "@": "accent"}
        lines += [[(line, colors.get(line[:1], "muted"))] for line in origin.git_diff.splitlines()[:400]]
    return lines


def _short(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return plain(value)
