"""`mambalab task show`: an example of a task that a person can check by eye."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Look at the tasks that models are trained on.", no_args_is_help=True, add_completion=False)


@app.callback()
def root() -> None:
    """Look at the tasks that models are trained on."""


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="copying, selective-copying, induction-heads, mqar, associative-recall, parity, modular-arithmetic, text or dna."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the task: task.context=32.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the example.")] = 0,
) -> None:
    """Print one example input and target of a task."""
    from app.console import data
    from workers.ablation import build_run

    spec = build_run([f"task.name={name}", *(overrides or [])], base={"task": {}}, source=f"task {name}")
    from workers.tasks import build_task, describe_example

    data(describe_example(build_task(spec.task), seed))
