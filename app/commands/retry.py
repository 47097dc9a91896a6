"""`mambalab retry`: queue failed and cancelled runs again, and go on with a queue that nobody works on."""

from __future__ import annotations

import typer

from app.commands.options import Address, Executor, check_executor
from app.refs import Refs


def retry(context: typer.Context, refs: Refs, *, executor: Executor = None, address: Address = None) -> None:
    """Queue failed and cancelled runs once more, and go on with those that wait; each resumes from its newest checkpoint."""
    from app.console import data, say
    from app.errors import bad_input
    from app.home import command_line, home_paths, reader
    from app.refs import runs_named
    from app.waking import choose_executor, work_on
    from storage.control import request
    from storage.status import RequestKind, RunStatus
    from workers.jobs.submission import SubmitOptions, check_compatible

    check_executor(executor, address)
    paths = home_paths(context)
    with reader(context) as store:
        named = runs_named(store, refs)
    again = [run.id for run in named if run.status in (RunStatus.FAILED, RunStatus.CANCELLED)]
    waiting = [run.id for run in named if run.status == RunStatus.QUEUED]
    if not again and not waiting:
        found = ", ".join(sorted({run.status for run in named}))
        bad_input(f"retry is for failed, cancelled and queued runs; these are {found or 'none'}.")
    options = SubmitOptions(command=command_line(), executor=choose_executor(paths, executor), address=address)
    check_compatible(paths, options)
    if again:
        request(paths, RequestKind.RETRY, again)
        say(f"asked for {len(again)} to be queued again; `mambalab ui` shows them")
    if waiting:
        say(f"{len(waiting)} wait in the queue already; a controller goes on with them")
    for run_id in (*again, *waiting):
        data(run_id)
    work_on(paths, options)
