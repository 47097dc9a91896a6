"""`mambalab ls`: the runs or the ablations of the store. It must answer at once, so nothing here is heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import Json
from app.errors import bad_input

if TYPE_CHECKING:
    from storage.queries import AblationRow, Reader, RunRow

KINDS = ("runs", "ablations")


def ls(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="[runs|ablations]", help="What to list.")] = "runs",
    *,
    ablation: Annotated[str | None, typer.Option(help="Only runs of this ablation.", show_default=False)] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only runs with this status. May be given often.", show_default=False)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Only runs that pass, as in the terminal UI: 'status=failed and model.d_state>8'.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many at most; 0 for no limit.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="List archived ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List runs, newest first, or ablations."""
    from app.home import reader

    if what not in KINDS:
        bad_input(f"ls: got {what!r}, expected one of {', '.join(KINDS)}. `mambalab show {what}` shows a single one.")
    if what == "ablations" and (ablation or status or where is not None):
        bad_input("ls ablations: --ablation, --status and --where choose among runs. Leave them out, or list runs.")
    with reader(context) as store:
        if what == "ablations":
            _list_ablations(store, limit, everything=everything, as_json=as_json)
            return
        runs = store.runs(
            ablation_id=store.resolve_ablation(ablation) if ablation else None,
            statuses=_statuses(status or ()),
            include_archived=everything,
            limit=limit + 1 if limit and where is None else None,
        )
        if where is not None:
            runs = _passing(store, runs, where)
        nothing = (
            "no run passes the filter." if where is not None else _why_no_runs(store, chosen=bool(ablation or status))
        )
        _list_runs(store, runs, limit, as_json, nothing)


def _why_no_runs(store: Reader, *, chosen: bool) -> str:
    if not store.runs(limit=1, include_archived=True):
        return "no runs. `mambalab submit demo` makes some."
    return "no such run; --all looks among archived ones too." if chosen else "all runs are archived; --all lists them."


def _statuses(names: Sequence[str]) -> list[str]:
    from storage.status import RunStatus

    for name in names:
        if name not in list(RunStatus):
            bad_input(f"--status: got {name!r}, expected one of {', '.join(RunStatus)}")
    return list(names)


def _passing(store: Reader, runs: list[RunRow], text: str) -> list[RunRow]:
    """Return the runs that pass a filter. A name that no run of the store has is a mistake, not an empty list."""
    import time

    from tui.filter import Fields, FilterError, compile_filter

    known = store.runs(include_archived=True)
    fields = Fields(
        metrics={key for run in known for key in run.metrics},
        config={key for run in known for key in run.config},
        axes={axis for run in known for axis in run.axis_labels},
    )
    try:
        return compile_filter(text, fields if known else None).select(runs, time.time())
    except FilterError as error:
        shown = "".join(letter if letter.isprintable() else " " for letter in text)
        place = f"at character {error.position + 1}"
        bad_input(f"--where: {error}, {place}\n  {shown}\n  {' ' * error.position}^")


def _list_runs(store: Reader, runs: list[RunRow], limit: int, as_json: bool, nothing: str) -> None:
    from app.console import data_json, say, table
    from app.grid import Grid, Layout
    from app.records import run_record

    shown = runs[:limit] if limit else runs
    if as_json:
        data_json([run_record(run) for run in shown])
    else:
        metric_of = {ablation.id: ablation.metric for ablation in store.ablations(include_archived=True)}
        table(
            Grid(
                ["id", "ablation", "trial", "seed", "status", "step", "metric", "duration", "created"],
                [_run_cells(run, metric_of) for run in shown],
                Layout(
                    right=("seed", "step", "duration", "created"),
                    drop=("created", "duration", "ablation", "step", "seed", "metric"),
                    shrink=("ablation", "trial", "metric"),
                ),
            )
        )
    if len(runs) > len(shown):
        say(f"only the first {len(shown)} are listed; --limit 0 lists all")
    elif not shown:
        say(nothing)


def _run_cells(run: RunRow, metric_of: dict[str, str]) -> list[str]:
    from app.formats import ago, duration, steps

    return [
        run.id,
        run.ablation or "",
        run.trial_label or run.name,
        str(run.seed),
        run.status,
        steps(run.step, run.total_steps),
        _deciding_metric(run, metric_of),
        duration(run.duration_s),
        ago(run.created_at),
    ]


def _deciding_metric(run: RunRow, metric_of: dict[str, str]) -> str:
    from app.formats import number

    wanted = metric_of.get(run.ablation_id or "", "valid/loss")
    key = wanted if wanted in run.metrics else "train/loss"
    return f"{number(run.metrics[key])} {key}" if key in run.metrics else ""


def _list_ablations(store: Reader, limit: int, *, everything: bool, as_json: bool) -> None:
    from app.console import data_json, say, table
    from app.grid import Grid, Layout
    from app.records import ablation_record

    ablations = store.ablations(include_archived=everything)
    shown = ablations[:limit] if limit else ablations
    if as_json:
        data_json([ablation_record(ablation) for ablation in shown])
    else:
        table(
            Grid(
                ["id", "name", "runs", "done", "statuses", "metric", "created", "question"],
                [_ablation_cells(ablation) for ablation in shown],
                Layout(
                    right=("runs", "done", "created"),
                    drop=("created", "metric", "question", "statuses"),
                    shrink=("name", "statuses", "metric", "question"),
                ),
            )
        )
    if len(ablations) > len(shown):
        say(f"only the first {len(shown)} are listed; --limit 0 lists all")
    elif not shown:
        hidden = store.ablations(include_archived=True)
        say(
            "all ablations are archived; --all lists them."
            if hidden
            else "no ablations. `mambalab submit demo` makes one."
        )


def _ablation_cells(ablation: AblationRow) -> list[str]:
    from app.formats import ago

    return [
        ablation.id,
        ablation.name,
        str(ablation.runs_total),
        f"{ablation.progress:.0%}",
        ", ".join(f"{count} {status}" for status, count in ablation.counts.items() if count),
        ablation.metric,
        ago(ablation.created_at),
        ablation.question,
    ]
