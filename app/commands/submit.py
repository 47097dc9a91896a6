"""`mambalab submit`: an ablation into the queue. It imports neither Ray nor torch, save for the sizes of `--dry-run`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import (
    Address,
    Executor,
    Json,
    Overrides,
    Pack,
    Priority,
    check_executor,
    pack_override,
    parse_seeds,
)
from app.errors import bad_input

if TYPE_CHECKING:
    from workers.ablation import AblationSpec, PlannedRun


def submit(
    context: typer.Context,
    ablation: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A preset, or a TOML file.")],
    *,
    overrides: Overrides = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N|A,B,...", help="So many seeds, or exactly these.", show_default=False)
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A smaller version that the file defines: small, tiny.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run; write nothing.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show progress to the end, then the table.")] = False,
    name: Annotated[str | None, typer.Option(help="Another name for the ablation.", show_default=False)] = None,
    executor: Executor = None,
    address: Address = None,
    priority: Priority = 0,
    pack: Pack = None,
    as_json: Json = False,
) -> None:
    """Queue every run of an ablation and return at once; the runs go on when this terminal closes."""
    check_executor(executor, address)
    if executor == "inline" and pack not in (None, "auto", "off"):
        bad_input(
            f"--pack: got {pack!r} with --executor inline, which works through the runs one by one in this process. "
            "Leave one of the two out."
        )
    spec, plan = _read(ablation, [*(overrides or []), *pack_override(pack)], parse_seeds(seeds), name, scale)
    _warn(spec, plan)
    if dry_run:
        from app.plan import print_plan

        print_plan(spec, plan, as_json=as_json)
        return
    from app.formats import counted
    from app.launching import Job, launch, submit_options
    from workers.jobs.submission import submit_ablation

    job = Job(
        title=f"{spec.name}: {counted(len(plan), 'run')}",
        metric=spec.metric.key,
        write=lambda paths, options: submit_ablation(paths, spec, plan, options),
    )
    options = submit_options(context, executor, address, priority)
    launch(context, job, options, follow=follow, as_json=as_json)


def _warn(spec: AblationSpec, plan: list[PlannedRun]) -> None:
    from app.console import say
    from app.measured import unknown_metrics

    for sentence in unknown_metrics(spec, plan):
        say(f"warning: {sentence}")


def _read(
    ablation: str, overrides: list[str], seeds: list[int] | None, name: str | None, scale: str | None
) -> tuple[AblationSpec, list[PlannedRun]]:
    """Validate and expand. Everything that can be wrong with the input comes to light here, before anything is written."""
    from app.overruling import check_overruled
    from app.plan import with_absolute_paths
    from app.presets import find_ablation
    from workers.ablation import AblationSpec, load_ablation, plan_runs, validate

    path = find_ablation(ablation)
    spec = load_ablation(path, overrides, seeds, scale)
    check_overruled(spec, overrides)
    if name is not None:
        spec = validate(AblationSpec, {**spec.model_dump(mode="json"), "name": name}, "--name")
    plan = plan_runs(spec, str(path))
    return spec, [replace(planned, spec=with_absolute_paths(planned.spec, path.parent)) for planned in plan]
