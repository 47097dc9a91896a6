"""`mambalab archive`: out of sight, not removed."""

from __future__ import annotations

from typing import Annotated

import typer

from app.refs import Refs


def archive(
    context: typer.Context,
    refs: Refs,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Show them again.")] = False,
) -> None:
    """Hide runs or ablations from lists and tables; `ls --all` shows them still. Nothing is removed."""
    from app.console import say
    from app.home import home_paths, reader
    from storage import control

    paths = home_paths(context)
    with reader(context) as store:
        named = [store.resolve(ref) for ref in refs]
    for kind, identity in named:
        if kind == "ablation":
            control.archive_ablation(paths, identity, archived=not undo)
        else:
            control.archive(paths, [identity], archived=not undo)
    say(f"{'shown again' if undo else 'archived'}: {', '.join(identity for _, identity in named)}")
