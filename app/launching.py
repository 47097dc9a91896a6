"""What `submit` and `run` share once their input is known to be good: write, wake the controller, tell, follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from app.console import data, data_json, flush, say
from app.errors import ExitCode
from app.home import command, command_line, home_paths

if TYPE_CHECKING:
    from storage.home import HomePaths
    from storage.queries import Reader, RunRow
    from storage.records import Submitted
    from workers.jobs.submission import SubmitOptions


@dataclass(frozen=True, slots=True)
class Job:
    """Something to submit: what to call it, the metric to show, and how it is written."""

    title: str
    metric: str
    write: Callable[[HomePaths, SubmitOptions], Submitted]


def submit_options(context: typer.Context, executor: str | None, address: str | None, priority: int) -> SubmitOptions:
    """Return what workers.jobs wants to know of a submission."""
    from app.waking import choose_executor
    from workers.jobs.submission import SubmitOptions

    chosen = choose_executor(home_paths(context), executor)
    return SubmitOptions(command=command_line(), executor=chosen, address=address, priority=priority)


def launch(context: typer.Context, job: Job, options: SubmitOptions, *, follow: bool, as_json: bool) -> None:
    """Write the runs, make sure that something drives them, print the id, and follow where asked.

    Raises:
        typer.Exit: with FAILED where a followed run did not complete, INTERRUPTED where following was interrupted.
    """
    from app.waking import work_on

    paths = home_paths(context)
    done = job.write(paths, options)
    reference = done.ablation_id or done.run_ids[0]
    if as_json:
        data_json({"ablation_id": done.ablation_id, "run_ids": list(done.run_ids)})
    else:
        data(reference)
    flush()
    say(f"queued {job.title}")
    work_on(paths, options)
    if not follow and options.executor != "inline":  # what ran in this process has ended by now
        _tell_next(context, reference, ablation=done.ablation_id is not None)
        return
    code = _follow(context, paths, done, job.metric)
    if code is not ExitCode.INTERRUPTED:
        if done.ablation_id is not None and not as_json:
            _print_table(paths, done.ablation_id)
        _tell_further(context, reference, ablation=done.ablation_id is not None)
    if code is not ExitCode.DONE:
        raise typer.Exit(code)


def _follow(context: typer.Context, paths: HomePaths, done: Submitted, metric: str) -> ExitCode:
    from app.follow import follow

    wanted = set(done.run_ids)
    reference = done.ablation_id or done.run_ids[0]

    def select(reader: Reader) -> Sequence[RunRow]:
        if done.ablation_id is None:
            return [reader.run(run_id) for run_id in done.run_ids]
        return [run for run in reader.runs(ablation_id=done.ablation_id, include_archived=True) if run.id in wanted]

    try:
        return follow(paths, select, metric)
    except KeyboardInterrupt:
        say(f"no longer following; the runs go on. `{command(context, f'cancel {reference}')}` would end them.")
        _tell_next(context, reference, ablation=done.ablation_id is not None)
        return ExitCode.INTERRUPTED


def _print_table(paths: HomePaths, ablation_id: str) -> None:
    """Print the table of the metric that decides, and one of each metric that the ablation names beside it."""
    from app.matrices import print_matrix, title_of
    from storage.matrix import build_matrix
    from storage.queries import Reader

    with Reader(paths) as reader:
        ablation = reader.ablation(ablation_id)
        runs = reader.runs(ablation_id=ablation_id)
    logged = {key for run in runs for key in run.metrics}
    for metric in (ablation.metric, *(key for key in ablation.secondary if key in logged)):
        print_matrix(build_matrix(ablation, runs, metric=metric), "text", title=title_of(ablation))


def _tell_next(context: typer.Context, reference: str, *, ablation: bool) -> None:
    """Name the three commands that follow up on something that is at work."""
    look = ("table", "its table, as far as it is") if ablation else ("logs -f", "what it prints")
    _tell(
        context,
        [("ui", "watch it live"), (f"{look[0]} {reference}", look[1]), (f"cancel {reference}", "end it")],
    )


def _tell_further(context: typer.Context, reference: str, *, ablation: bool) -> None:
    """Name the three commands that look further at something that has ended."""
    second = f"table {reference} --format latex" if ablation else f"show {reference}"
    sql = "SELECT * FROM v_ablation" if ablation else "SELECT * FROM v_runs LIMIT 10"
    _tell(
        context,
        [
            ("ui", "curves, logs and the matrix"),
            (second, "for the paper" if ablation else "all that is known of it"),
            (f'query "{sql}"', "plain SQL"),
        ],
    )


def _tell(context: typer.Context, lines: Sequence[tuple[str, str]]) -> None:
    commands = [command(context, words) for words, _ in lines]
    width = min(60, max(len(line) for line in commands))
    for line, (_, purpose) in zip(commands, lines, strict=True):
        say(f"  {line:<{width}}  # {purpose}")
