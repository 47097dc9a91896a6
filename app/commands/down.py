"""`mambalab down`: end the controller and the Ray head that it started."""

from __future__ import annotations

import typer


def down(context: typer.Context) -> None:
    """End this store's controller and exactly what it started; running runs go back to the queue."""
    from app.console import say
    from app.home import command, home_paths
    from storage.queries import Reader
    from workers.jobs.shutdown import shut_down

    paths = home_paths(context)
    lines = shut_down(paths)
    for line in lines or ["nothing to end: no controller of this store is alive"]:
        say(line)
    if not paths.database.is_file():
        return
    with Reader(paths) as store:
        waiting = store.count_runs().get("queued", 0)
    if waiting:
        say(f"{waiting} runs wait in the queue; `{command(context, 'retry REF')}` goes on with them")
