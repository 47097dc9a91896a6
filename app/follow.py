"""Live progress of an ablation or a run on stderr, until the last run has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from time import sleep
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from app.console import say
from app.errors import CommandError, ExitCode
from app.formats import number

if TYPE_CHECKING:
    from rich.progress import TaskID

    from storage.home import HomePaths
    from storage.queries import Reader, RunRow

STATUS_STYLES = {"queued": "dim", "running": "cyan", "completed": "green", "failed": "bold red", "cancelled": "yellow"}
POLL_S = 0.2
ENDED = ("completed", "failed", "cancelled")
BARS_SHOWN = 14  # of runs at a time, so that the whole fits a small terminal

Select = Callable[["Reader"], Sequence["RunRow"]]


class Display(Protocol):
    """Shows runs as they change."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, runs: Sequence[RunRow]) -> None:
        """Show where the runs stand now."""
        ...


def follow(paths: HomePaths, select: Select, metric: str) -> ExitCode:
    """Show the selected runs until all have ended; return FAILED when any did not complete.

    A terminal gets moving bars, anything else one line for each change of a run's status. Interrupting it stops the
    showing alone: the runs go on.
    """
    from storage.queries import Reader

    display: Display = Bars(metric) if sys.stderr.isatty() else Lines(metric)
    with Reader(paths) as reader, display:
        version = -1
        while True:
            current = reader.data_version()
            if current != version:
                version = current
                runs = select(reader)
                display.show(runs)
                if all(run.status in ENDED for run in runs):
                    break
            check_controller(paths)
            sleep(POLL_S)
    _tell_failures(runs)
    return ExitCode.DONE if all(run.status == "completed" for run in runs) else ExitCode.FAILED


def check_controller(paths: HomePaths) -> None:
    """Raise where nothing drives the queue any more: waiting longer would be for ever."""
    from workers.jobs.submission import controller_alive

    if not controller_alive(paths):
        raise CommandError(
            f"the controller of {paths.root} has ended before the runs did; its log is {paths.controller_log}. "
            "`mambalab submit` or `mambalab retry` starts a new one, and the runs go on from their checkpoints."
        )


class Lines:
    """One line a change of status: for logs, pipes and CI."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._seen: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def show(self, runs: Sequence[RunRow]) -> None:
        """Write a line for every run whose status is not the one last written."""
        for run in runs:
            if self._seen.get(run.id) != run.status:
                self._seen[run.id] = run.status
                ended = sum(run.status in ENDED for run in runs)
                said = f"{ended}/{len(runs)}  {run.id}  {label(run)}  {run.status}  {_metric(run, self._metric)}"
                say(said.rstrip())


class Bars:
    """Moving bars of a terminal: one for all runs, and one for each of those that matter now."""

    def __init__(self, metric: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from app.console import stderr

        self._metric = metric
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("{task.fields[metric]}", style="bold", markup=False),
            TimeRemainingColumn(compact=True),
            console=stderr(),
            refresh_per_second=8,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        self._all = self._progress.add_task("all runs", total=None, status="", metric="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, runs: Sequence[RunRow]) -> None:
        """Move the bars; where there are more runs than bars, those at work come first, then the latest to end."""
        ended = [run for run in runs if run.status in ENDED]
        self._progress.update(self._all, completed=len(ended), total=len(runs))
        chosen = {run.id for run in most_telling(runs, BARS_SHOWN)}
        for run in runs:
            if run.id in chosen:
                self._update(run)
        for run_id, bar in self._bars.items():
            self._progress.update(bar, visible=run_id in chosen)

    def _update(self, run: RunRow) -> None:
        if run.id not in self._bars:
            self._bars[run.id] = self._progress.add_task(
                label(run), total=run.total_steps, status="", metric="", start=False
            )
        bar = self._bars[run.id]
        if run.status != "queued":
            self._progress.start_task(bar)
        total = run.step if run.status == "completed" else run.total_steps
        style = STATUS_STYLES.get(run.status, "none")
        self._progress.update(
            bar,
            completed=run.step,
            total=total,
            status=f"[{style}]{run.status}[/]",
            metric=_metric(run, self._metric),
        )
        if run.status in ENDED:
            self._progress.stop_task(bar)


def most_telling(runs: Iterable[RunRow], count: int) -> list[RunRow]:
    """Return at most `count` runs: those at work first, then the latest to end, then those that wait."""

    def rank(run: RunRow) -> tuple[int, float]:
        order = {"running": 0, "queued": 2}.get(run.status, 1)
        return order, -(run.finished_at or 0.0)

    return sorted(runs, key=rank)[:count]


def label(run: RunRow) -> str:
    """Return what a run is called where its trial and seed matter."""
    return f"{run.trial_label or run.name} · seed {run.seed}"


def _metric(run: RunRow, key: str) -> str:
    value = run.metrics.get(key)
    return "" if value is None else f"{key.rpartition('/')[2]} {number(value)}"


def _tell_failures(runs: Sequence[RunRow]) -> None:
    for run in runs:
        if run.status == "failed":
            say(f"failed: {label(run)}: {run.error or run.reason}  (`mambalab show {run.id}` has the traceback)")
