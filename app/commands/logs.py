"""`mambalab logs`: what a run's worker printed."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.home import HomePaths
    from storage.queries import Reader

POLL_S = 0.2
CHUNK = 1 << 16


def logs(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="A run: a unique prefix of its id.")],
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which attempt; the latest by default.", show_default=False)
    ] = None,
) -> None:
    """Print what a run's worker wrote to stdout and stderr."""
    from app.home import home_paths, reader
    from app.refs import one_run

    paths = home_paths(context)
    with reader(context) as store:
        run_id = one_run(store, ref, "logs")
        if follow:
            _follow(store, paths, run_id, attempt)
        else:
            _print_once(store, paths, run_id, attempt)


def _print_once(store: Reader, paths: HomePaths, run_id: str, attempt: int | None) -> None:
    from app.console import say
    from app.errors import CommandError, ExitCode
    from app.formats import counted

    run = store.run(run_id)
    number = attempt or run.attempt
    if number == 0:
        say(f"{run_id} is {run.status} and has not started; `mambalab logs -f {run_id}` waits for it")
        return
    log = paths.attempt(run_id, number).log
    if number > run.attempt:
        raise CommandError(f"{run_id} has {counted(run.attempt, 'attempt')}, not {number}.", ExitCode.NOT_FOUND)
    if not log.is_file():
        inline = any(row.number == number and row.executor == "inline" for row in store.attempts(run_id))
        if inline:
            say(f"attempt {number} of {run_id} ran inline: what it printed went to the terminal of the command that ran it, and "
                f"no log is kept. `mambalab show {run_id}` has its metrics, events and traceback.")  # fmt: skip
        else:
            say(f"attempt {number} of {run_id} has written no log: {log}")
        return
    if not _copy(log, 0):
        say(f"attempt {number} of {run_id} has printed nothing; `mambalab show {run_id}` has its metrics and events")


def _follow(store: Reader, paths: HomePaths, run_id: str, wanted: int | None) -> None:
    """Print the log as it grows, going on to the next attempt where there is one, until nothing can come any more."""
    from app.console import say
    from app.follow import check_controller
    from storage.status import TERMINAL

    number, place = wanted or 0, 0
    while True:
        run = store.run(run_id)  # before reading: what is written by a run that has ended by now is all in the file
        ended = run.status in TERMINAL or (wanted is not None and run.attempt > wanted)
        if wanted is None and number == 0 and run.attempt:
            number = run.attempt
        if number:
            place = _copy(paths.attempt(run_id, number).log, place)
        if wanted is None and run.attempt > number:
            number, place = number + 1, 0
            say(f"--- attempt {number} of {run_id}")
            continue
        if ended:
            say(f"--- {run_id} {run.status}" + (f": {run.error}" if run.error else ""))
            return
        check_controller(paths)
        sleep(POLL_S)


def _copy(log: Path, place: int) -> int:
    """Print a file from a byte offset on; return the offset behind what was printed."""
    from app.console import data_bytes

    if not log.is_file():
        return place
    with log.open("rb") as file:
        file.seek(place)
        while piece := file.read(CHUNK):
            data_bytes(piece)
            place += len(piece)
    return place
