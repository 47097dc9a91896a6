"""`mambalab priority`: change the order of the queue."""

from __future__ import annotations

from typing import Annotated

import typer

from app.refs import Refs
from storage.status import FARTHEST_PRIORITY


def priority(
    context: typer.Context,
    refs: Refs,
    number: Annotated[
        int,
        typer.Argument(
            metavar="N",
            min=-FARTHEST_PRIORITY,
            max=FARTHEST_PRIORITY,
            help="A whole number; higher ones start first, 0 is usual.",
        ),
    ],
) -> None:
    """Change the place of queued runs: higher numbers start first, and the older first among equals."""
    from app.console import data, say
    from app.errors import bad_input
    from app.home import home_paths, reader
    from app.refs import runs_named
    from app.waking import act_on_priorities
    from storage.control import request
    from storage.status import RequestKind, RunStatus

    paths = home_paths(context)
    with reader(context) as store:
        named = runs_named(store, refs)
    waiting = [run.id for run in named if run.status == RunStatus.QUEUED]
    if not waiting:
        found = ", ".join(sorted({run.status for run in named}))
        bad_input(f"only queued runs have an order to change; these are {found or 'none'}.")
    if len(waiting) < len(named):
        say(f"{len(named) - len(waiting)} of {len(named)} do not wait")
    request(paths, RequestKind.PRIORITY, waiting, {"priority": number})
    act_on_priorities(paths)
    for run_id in waiting:
        data(run_id)
    say(f"asked for priority {number} for {len(waiting)}; higher ones start first")
