"""`mambalab note`: a person's remark on a run or an ablation."""

from __future__ import annotations

from typing import Annotated

import typer


def note(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="A run or an ablation.")],
    text: Annotated[str, typer.Argument(help="The remark. An ablation has one, which this replaces; '' takes it off.")],
) -> None:
    """Keep a remark with a run or an ablation; `mambalab show` and the terminal UI print it."""
    from app.console import say
    from app.errors import bad_input
    from app.home import home_paths, reader
    from storage.control import add_note, note_ablation

    with reader(context) as store:
        kind, identity = store.resolve(ref)
    if kind == "ablation":
        note_ablation(home_paths(context), identity, text)
    else:
        try:
            add_note(home_paths(context), identity, text)
        except ValueError as error:
            bad_input(str(error))
    say(f"noted on {identity}" if text.strip() else f"took the note off {identity}")
