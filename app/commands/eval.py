"""`mambalab eval`: a checkpoint on held-out data, at the length it was trained at or at others."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import Json, parse_lengths


def evaluate(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RUN",
            help="A checkpoint's folder, or a run by a unique prefix of its id: its newest one.",
        ),
    ],
    *,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another task than its own.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the task, such as task.trigger_prefix=10, or where it computes: train.device, train.precision, "
            "train.threads. May be given often.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="A..B|A,B,...",
            help="Lengths to evaluate at, A..B doubling; of the copying tasks, the context. Default: the task's own.",
            show_default=False,
        ),
    ] = None,
    batches: Annotated[
        int | None, typer.Option(min=1, help="Batches at each length; as in training.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences in each; as in training.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another held-out stream than that of training.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a checkpoint on its task or another, at any length: recurrent models in constant memory."""
    wanted = parse_lengths(lengths)
    from app.evaluation import Wishes, evaluate_checkpoint, find_checkpoint

    subject = find_checkpoint(context, what)
    wishes = Wishes(task, tuple(overrides or ()), wanted, batches, batch_size, seed)
    evaluate_checkpoint(subject, wishes, as_json=as_json)
