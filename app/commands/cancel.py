"""`mambalab cancel`: ask for runs to end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app.refs import Refs


def cancel(
    context: typer.Context,
    refs: Refs,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before several runs are cancelled.")] = False,
) -> None:
    """Cancel queued and running runs. A running one saves a checkpoint first, so that `retry` goes on from there."""
    from app.console import confirm, data, say
    from app.errors import bad_input
    from app.home import home_paths, reader
    from app.refs import runs_named
    from app.waking import act_on_cancellations
    from storage.control import request
    from storage.status import TERMINAL, RequestKind

    paths = home_paths(context)
    with reader(context) as store:
        named = runs_named(store, refs)
    open_runs = [run.id for run in named if run.status not in TERMINAL]
    if len(open_runs) < len(named):
        say(f"{len(named) - len(open_runs)} of {len(named)} have ended already")
    if not open_runs:
        return
    if len(open_runs) > 1 and not yes:
        if not sys.stdin.isatty():
            bad_input(f"this would cancel {len(open_runs)} runs; --yes says that it is meant")
        if not confirm(f"cancel {len(open_runs)} runs?"):
            say("nothing cancelled")
            return
    request(paths, RequestKind.CANCEL, open_runs)
    act_on_cancellations(paths)
    for run_id in open_runs:
        data(run_id)
    say(f"asked for {len(open_runs)} to be cancelled; `mambalab ls` shows when they are")
