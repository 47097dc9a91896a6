"""`mambalab down`: end the controller and the Ray head that it started."""

from __future__ import annotations

import typer


def down(context: typer.Context) -> None:
    """End this store's controller and exactly what it started; running runs go back to the queue."""
    from app.console import say
    from app.home import home_paths
    from workers.jobs.shutdown import shut_down

    for line in shut_down(home_paths(context)):
        say(line)
