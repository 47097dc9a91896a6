"""What a user names: runs by a unique prefix of their id, ablations also by their name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import bad_input

if TYPE_CHECKING:
    from storage.queries import Reader, RunRow

Refs = Annotated[
    list[str], typer.Argument(metavar="REF...", help="Runs by a unique prefix of their id; ablations also by name.")
]


def runs_named(store: Reader, refs: Iterable[str]) -> list[RunRow]:
    """Return the runs that are named, each once: a run itself, or every run of an ablation."""
    found: dict[str, RunRow] = {}
    for ref in refs:
        kind, identity = store.resolve(ref)
        if kind == "run":
            found[identity] = store.run(identity)
        else:
            found |= {run.id: run for run in store.runs(ablation_id=identity, include_archived=True)}
    return list(found.values())


def one_run(store: Reader, ref: str, verb: str) -> str:
    """Return the id of a run. Ends with bad input where an ablation of several runs is named."""
    kind, identity = store.resolve(ref)
    if kind == "run":
        return identity
    runs = store.runs(ablation_id=identity, include_archived=True)
    if len(runs) == 1:
        return runs[0].id
    named = ", ".join(f"{run.id} ({run.trial_label}, seed {run.seed})" for run in runs[:4])
    bad_input(
        f"{verb} takes a single run, and {ref} is an ablation of {len(runs)}: {named}{', ...' if len(runs) > 4 else ''}. "
        f"`mambalab ls --ablation {ref}` lists them."
    )
