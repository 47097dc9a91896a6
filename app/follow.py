"""Live progress of an ablation or a run on stderr, until the last run has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.errors import ExitCode

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from storage.home import HomePaths
    from storage.queries import Reader, RunRow

POLL_S = 0.2
ENDED = ("completed", "failed", "cancelled")


def follow(paths: HomePaths, select: Callable[[Reader], Sequence[RunRow]], metric: str) -> ExitCode:
    """Show the selected runs until all have ended; return FAILED when any did not complete.

    Interrupting it stops the showing alone: the runs go on.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from app.console import stderr
    from storage.queries import Reader

    progress = Progress(
        TextColumn("[progress.description]{task.description}", justify="left"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TextColumn("{task.fields[metric]}", style="bold"),
        TimeRemainingColumn(compact=True),
        console=stderr(),
        refresh_per_second=8,
    )
    bars: dict[str, TaskID] = {}
    with Reader(paths) as reader, progress:
        version = -1
        while True:
            current = reader.data_version()
            if current != version:
                version = current
                runs = select(reader)
                for run in runs:
                    _update(progress, bars, run, metric)
                if all(run.status in ENDED for run in runs):
                    completed = all(run.status == "completed" for run in runs)
                    return ExitCode.DONE if completed else ExitCode.FAILED
            _check_controller(paths)
            time.sleep(POLL_S)


def _check_controller(paths: HomePaths) -> None:
    """Raise where nothing drives the queue any more: waiting longer would be for ever."""
    from app.errors import CommandError
    from workers.jobs.submission import controller_alive

    if not controller_alive(paths):
        raise CommandError(
            f"the controller of {paths.root} has ended before the runs did; its log is {paths.controller_log}. "
            "`mambalab submit` or `mambalab retry` starts a new one, and the runs go on from their checkpoints."
        )


def _update(progress: Progress, bars: dict[str, TaskID], run: RunRow, metric: str) -> None:
    from app.console import STATUS_STYLES

    if run.id not in bars:
        label = f"{run.trial_label or run.name} · seed {run.seed}"
        bars[run.id] = progress.add_task(label, total=run.total_steps, status="", metric="", start=False)
    bar = bars[run.id]
    if run.status != "queued":
        progress.start_task(bar)
    value = run.metrics.get(metric)
    shown = "" if value is None else f"{metric.rpartition('/')[2]} {value:.4g}"
    style = STATUS_STYLES.get(run.status, "")
    total = run.step if run.status == "completed" else run.total_steps
    progress.update(bar, completed=run.step, total=total, status=f"[{style}]{run.status}[/]", metric=shown)
    if run.status in ENDED:
        progress.stop_task(bar)
