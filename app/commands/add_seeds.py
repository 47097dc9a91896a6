"""`mambalab add-seeds`: an ablation that is in the store, with further seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import Address, Executor, Json, Priority, check_executor, parse_seeds


def add_seeds(
    context: typer.Context,
    ablation: Annotated[str, typer.Argument(help="Its name, or a unique prefix of its id.")],
    seeds: Annotated[str, typer.Argument(metavar="N|A,B,...", help="So many further seeds, or exactly these.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run; write nothing.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show progress to the end, then the table.")] = False,
    executor: Executor = None,
    address: Address = None,
    priority: Priority = 0,
    as_json: Json = False,
) -> None:
    """Queue every trial of an ablation with further seeds; what has run stays, and the table counts all of them."""
    from app.home import reader
    from workers.jobs.extending import further_seeds, plan_extension, submit_seeds

    check_executor(executor, address)
    wanted = parse_seeds(seeds, "SEEDS") or []
    with reader(context) as store:
        ablation_id = store.resolve_ablation(ablation)
        if "," not in seeds:
            wanted = further_seeds(store.ablation(ablation_id).seeds, len(wanted))
        extension = plan_extension(store, ablation_id, wanted)
    if dry_run:
        from app.plan import print_plan

        print_plan(extension.spec, extension.plan, as_json=as_json)
        return
    from app.launching import Job, launch, submit_options

    job = Job(
        title=f"{extension.spec.name}: {len(extension.plan)} runs, seeds {', '.join(map(str, extension.seeds))}",
        metric=extension.spec.metric.key,
        write=lambda paths, options: submit_seeds(paths, extension, options),
    )
    launch(context, job, submit_options(context, executor, address, priority), follow=follow, as_json=as_json)
