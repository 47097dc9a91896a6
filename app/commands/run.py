"""`mambalab run`: a single run into the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import Address, Executor, Json, Overrides, Priority, check_executor
from app.errors import bad_input

LONGEST_NAME = 200


def run(
    context: typer.Context,
    *,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run; 0 by default.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; its task by default.", show_default=False)] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--detach", help="Show progress to the end, or return at once.")
    ] = True,
    executor: Executor = None,
    address: Address = None,
    priority: Priority = 0,
    as_json: Json = False,
) -> None:
    """Queue one run, the defaults with your changes, and show its progress."""
    from app.launching import Job, launch, submit_options
    from app.plan import with_absolute_paths
    from workers.ablation import build_run
    from workers.jobs.submission import submit_run

    check_executor(executor, address)
    _check_name(name)
    changes = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    spec = with_absolute_paths(build_run(changes), Path.cwd())
    title = name or spec.task.name
    job = Job(
        title=f"{title}, seed {spec.seed}",
        metric="valid/loss",
        write=lambda paths, options: submit_run(paths, spec, name=title, options=options),
    )
    options = submit_options(context, executor, address, priority)
    launch(context, job, options, follow=follow, as_json=as_json)


def _check_name(name: str | None) -> None:
    if name is None or (name.strip() and name.isprintable() and len(name) <= LONGEST_NAME):
        return
    shown = name if len(name) <= LONGEST_NAME else f"{name[:20]}... of {len(name)} characters"
    bad_input(f"--name: got {shown!r}, expected one line of at most {LONGEST_NAME} characters that can be printed")
