"""`mambalab eval`: a checkpoint on held-out data, at the length it was trained at or at others, or on given questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import Json, parse_lengths
from app.errors import bad_input


def evaluate(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RUN",
            help="A checkpoint's folder, or a run by a unique prefix of its id: its newest one. With --loglikelihood also "
            "a folder with the weights and config.json of a released Mamba.",
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
    loglikelihood: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Score continuations instead: a line of JSON each, {"context": .., "continuation": ..} or {"context": .., '
            '"choices": [..], "gold": 0}; text, or lists of token numbers.',
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="For --loglikelihood: a tokenizer.json. Default: the one it was trained with (bytes), or the one beside "
            "released weights.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a checkpoint on its task or another, at any length: recurrent models in constant memory.

    With --loglikelihood, print how likely it finds given continuations, and how often the right one of several is likeliest.
    """
    if loglikelihood is not None:
        if any(option is not None for option in (task, lengths, batches, seed)):
            bad_input(
                "--loglikelihood takes neither --task, --lengths, --batches nor --seed: the file has the questions"
            )
        from app.loglikelihood import BATCH_SIZE, evaluate_questions, open_scorer

        scorer = open_scorer(
            context, what, tokenizer=tokenizer, overrides=overrides or [], batch_size=batch_size or BATCH_SIZE
        )
        evaluate_questions(scorer, loglikelihood, as_json=as_json)
        return
    if tokenizer is not None:
        bad_input("--tokenizer belongs to --loglikelihood; a task of text has task.tokenizer")
    wanted = parse_lengths(lengths)
    from app.evaluation import Wishes, evaluate_checkpoint, find_checkpoint

    subject = find_checkpoint(context, what)
    wishes = Wishes(task, tuple(overrides or ()), wanted, batches, batch_size, seed)
    evaluate_checkpoint(subject, wishes, as_json=as_json)
