"""`mambalab show`: one run or one ablation in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import Json

if TYPE_CHECKING:
    from storage.queries import Reader

EVENTS_SHOWN = 20


def show(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="A run or an ablation: a unique prefix of its id, or an ablation's name.")],
    *,
    as_json: Json = False,
) -> None:
    """Show a run or an ablation in full: spec, facts, provenance, attempts, metrics, and why it failed."""
    from app.home import reader

    with reader(context) as store:
        kind, identity = store.resolve(ref)
        if kind == "run":
            _show_run(store, identity, as_json)
        else:
            _show_ablation(store, identity, as_json)


def _show_run(store: Reader, run_id: str, as_json: bool) -> None:
    from app.console import data, data_json
    from app.description import describe_run
    from app.records import record, run_record

    if not as_json:
        data(describe_run(store, run_id, events=EVENTS_SHOWN))
        return
    provenance = store.provenance(run_id)
    data_json(
        {
            "kind": "run",
            **run_record(store.run(run_id)),
            "spec": store.run_spec(run_id),
            "facts": store.run_facts(run_id),
            "provenance": None if provenance is None else record(provenance),
            "latest": {key: record(value) for key, value in store.latest(run_id).items()},
            "attempts": [record(row) for row in store.attempts(run_id)],
            "checkpoints": [record(row) for row in store.checkpoints(run_id)],
            "events": [record(row) for row in store.events(run_id)],
            "requests": [record(row) for row in store.requests(run_id)],
            "notes": [record(row) for row in store.notes(run_id)],
        }
    )


def _show_ablation(store: Reader, ablation_id: str, as_json: bool) -> None:
    from app.console import data, data_json
    from app.description import describe_ablation
    from app.records import ablation_record, run_record

    ablation = store.ablation(ablation_id)
    runs = store.runs(ablation_id=ablation_id, include_archived=True)
    if as_json:
        listed = [run_record(run) for run in runs]
        data_json({"kind": "ablation", **ablation_record(ablation), "spec": ablation.spec, "runs": listed})
        return
    data(describe_ablation(ablation, runs))
