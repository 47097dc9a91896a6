"""`mambalab tag` and `mambalab untag`: words that a person puts on runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import bad_input

if TYPE_CHECKING:
    from storage.queries import RunRow

RefsThenName = Annotated[
    list[str], typer.Argument(metavar="REF... NAME", help="Runs or ablations, and last the tag.", show_default=False)
]


def tag(context: typer.Context, words: RefsThenName) -> None:
    """Put a tag on runs, or on every run of an ablation."""
    from app.console import say
    from app.formats import counted
    from app.home import home_paths
    from storage.control import add_tags

    runs, name = _parse(context, words)
    try:
        add_tags(home_paths(context), [run.id for run in runs], [name])
    except ValueError as error:
        bad_input(str(error))
    say(f"tagged {name}: {counted(len(runs), 'run')}")


def untag(context: typer.Context, words: RefsThenName) -> None:
    """Take a tag off runs."""
    from app.console import say
    from app.formats import counted
    from app.home import home_paths
    from storage.control import remove_tags

    runs, name = _parse(context, words)
    had = [run.id for run in runs if name in run.tags]
    if not had:
        known = sorted({word for run in runs for word in run.tags})
        bad_input(f"untag: none of these runs is tagged {name!r}; their tags: {', '.join(known) or 'none'}.")
    remove_tags(home_paths(context), had, [name])
    say(f"no longer tagged {name}: {counted(len(had), 'run')}")


def _parse(context: typer.Context, words: list[str]) -> tuple[list[RunRow], str]:
    from app.home import reader
    from app.refs import runs_named

    if len(words) < 2:
        bad_input("expected one run or ablation at least, and then the tag: mambalab tag REF... NAME")
    *refs, name = words
    with reader(context) as store:
        return runs_named(store, refs), name
