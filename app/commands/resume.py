"""`mambalab resume`: a new run that goes on from a checkpoint of another."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import Address, Executor, Json, Overrides, Priority, check_executor


def resume(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="RUN", help="A run: a unique prefix of its id.")],
    *,
    step: Annotated[
        int | None,
        typer.Option("--from", min=1, help="The checkpoint's step; the newest by default.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option(help="What to call it; RUN's name and the step by default.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--detach", help="Show progress to the end, or return at once.")
    ] = True,
    executor: Executor = None,
    address: Address = None,
    priority: Priority = 0,
    as_json: Json = False,
) -> None:
    """Queue a new run that goes on from a checkpoint of another, longer or otherwise trained; that one stays as it is.

    `retry` is for going on with a run that did not end well.
    """
    check_executor(executor, address)
    from app.launching import Job, launch, submit_options
    from app.resuming import plan_branch, submit_branch

    branch = plan_branch(context, ref, step, overrides or [])
    title = name or branch.name
    job = Job(
        title=f"{title}, from step {branch.checkpoint.step:,} of {branch.run_id}",
        metric="valid/loss",
        write=lambda paths, options: submit_branch(paths, branch, title, options),
    )
    options = submit_options(context, executor, address, priority)
    launch(context, job, options, follow=follow, as_json=as_json)
