"""What `mambalab eval` does: find a checkpoint, read its spec, evaluate it at lengths, print a row for each.

torch is imported by the functions that need it, once what was asked for is known to make sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.errors import CommandError, bad_input

if TYPE_CHECKING:
    from workers.models import LanguageModel
    from workers.specs import RunSpec
    from workers.training import Checkpoint
    from workers.training.extrapolation import HeldOut, LengthRow
    from workers.training.precision import Placement

FREE_KEYS = ("train.device", "train.precision", "train.threads")  # what may be changed beside the task


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None and nothing stand for what the run was trained and evaluated with."""

    task: str | None
    overrides: tuple[str, ...]
    lengths: list[int] | None
    batches: int | None
    batch_size: int | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint, the spec that it was trained with, and its run's id where it was found by that."""

    checkpoint: Checkpoint
    spec: RunSpec
    run_id: str | None


def find_checkpoint(context: typer.Context | None, what: str) -> Subject:
    """Return the checkpoint that a folder is, or a run's newest whole one.

    Ends with bad input where there is none. Raises NotFound where neither a folder nor a run has this name. Without a
    command's context there is no store to look for runs in.
    """
    from workers.ablation import validate
    from workers.errors import CheckpointError
    from workers.specs import RunSpec

    folder = Path(what).expanduser()
    if not folder.is_dir():
        if context is None:
            bad_input(f"{what!r} is no folder of a checkpoint")
        return _of_run(context, what)
    from workers.training.checkpoint import read_checkpoint

    try:
        checkpoint = read_checkpoint(folder)
    except CheckpointError as error:
        bad_input(
            f"{error}. Name a run, or a folder such as .mambalab/runs/ID/checkpoints/step-000500, whose state.json, "
            "model.safetensors and optimizer.safetensors are as they were written."
        )
    return Subject(checkpoint, validate(RunSpec, checkpoint.state["spec"], f"{folder}: spec"), None)


def _of_run(context: typer.Context, ref: str) -> Subject:
    from app.console import say
    from app.home import command, home_paths, reader
    from app.refs import one_run
    from workers.ablation import validate
    from workers.specs import RunSpec

    with reader(context) as store:
        run_id = one_run(store, ref, "eval")
        run, tree = store.run(run_id), store.run_spec(run_id)
    from workers.training import CheckpointStore

    folder = home_paths(context).checkpoints(run_id)
    checkpoint = CheckpointStore(folder, keep=1, report=say).newest()
    if checkpoint is None:
        follow = {"queued": "wait for it to start", "running": "wait for its first one (train.checkpoint_every)"}
        todo = follow.get(run.status, f"`{command(context, f'retry {run_id}')}` trains it again")
        bad_input(f"run {run_id} is {run.status} and has no whole checkpoint in {folder}: {todo}, or name another run.")
    return Subject(checkpoint, validate(RunSpec, tree, f"run {run_id}: spec"), run_id)


def evaluate_checkpoint(subject: Subject, wishes: Wishes, *, as_json: bool) -> None:
    """Evaluate and print: a line a length on stderr as it comes, the table or JSON on stdout.

    Raises:
        SpecError, TaskError: a key, a length, or a task that cannot be.
    """
    from workers.training.determinism import EVALUATION_SEED, reproducible
    from workers.training.errors import DeviceError, is_out_of_memory
    from workers.training.extrapolation import HeldOut, own_length
    from workers.training.precision import place

    spec = changed_spec(subject.spec, wishes.task, wishes.overrides)
    lengths = wishes.lengths or [own_length(spec.task)]
    held_out = HeldOut(
        wishes.batches or spec.train.eval_batches,
        wishes.batch_size or spec.train.eval_batch_size or spec.train.batch_size,
        EVALUATION_SEED if wishes.seed is None else wishes.seed,
    )
    try:
        placement = place(spec)
    except DeviceError as error:
        bad_input(str(error))
    model = _model(subject, spec, lengths)
    try:
        with reproducible(placement):
            rows = _measure(model.to(placement.device), spec, lengths, held_out, placement)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise CommandError(f"out of memory on {placement.device}: lower --batch-size or the largest length") from error
    _print(subject, spec, held_out, rows, as_json=as_json)


def changed_spec(trained: RunSpec, task: str | None, overrides: Sequence[str]) -> RunSpec:
    """Return the run's spec with the wished task; nothing else may change but where it is computed."""
    from workers.ablation import build_run

    check_overrides(overrides)
    base = trained.model_dump(mode="json")
    names = [] if task is None else [f"task.name={task}"]
    if task not in (None, trained.task.name):
        base["task"] = {}
    return build_run([*names, *overrides], base=base, source="eval")


def check_overrides(overrides: Sequence[str]) -> None:
    """End with bad input where an override would change more than the task or where it is computed."""
    from workers.ablation import parse_override

    for text in overrides:
        key, _ = parse_override(text)
        if not key.startswith("task.") and key not in FREE_KEYS:
            bad_input(
                f"--set {text}: a trained model is evaluated as it is; expected task.KEY=VALUE or one of "
                f"{', '.join(FREE_KEYS)}"
            )


def trained_model(subject: Subject) -> LanguageModel:
    """Return a checkpoint's model with its weights. Ends with bad input where they do not fit the spec on record."""
    from workers.errors import CheckpointError
    from workers.models import build_model
    from workers.tasks import build_task
    from workers.training import load_weights

    model = build_model(subject.spec.model, build_task(subject.spec.task).vocab_size)
    try:
        load_weights(model, subject.checkpoint.folder)
    except CheckpointError as error:
        bad_input(f"{error}. The spec on record is not the one that these weights were trained with.")
    return model


def _model(subject: Subject, spec: RunSpec, lengths: list[int]) -> LanguageModel:
    """Return the checkpoint's model once every length is known to be possible."""
    from workers.tasks import build_task
    from workers.training.extrapolation import refusal, task_at

    for length in lengths:
        task = build_task(task_at(spec.task, length))
        if why := refusal(spec.model, length):
            bad_input(f"--lengths: {why}")
    vocab = build_task(subject.spec.task).vocab_size
    if task.vocab_size > vocab:
        bad_input(
            f"task {task.name} has {task.vocab_size} tokens and the model knows {vocab}, those of {subject.spec.task.name}. "
            f"Lower it, such as --set task.vocab={vocab}, or take another task."
        )
    return trained_model(subject)


def _measure(
    model: LanguageModel, spec: RunSpec, lengths: list[int], held_out: HeldOut, placement: Placement
) -> list[LengthRow]:
    from app.console import say
    from app.formats import duration, number
    from workers.training.extrapolation import evaluate_lengths

    rows = []
    for row in evaluate_lengths(model, spec.task, lengths, held_out, placement):
        rows.append(row)
        if len(lengths) > 1:
            say(f"length {row.length}: accuracy {number(row.metrics['valid/accuracy'])}, {duration(row.seconds)}")
    return rows


def _print(subject: Subject, spec: RunSpec, held_out: HeldOut, rows: list[LengthRow], *, as_json: bool) -> None:
    from app.console import data_json, say, table
    from app.formats import duration, number
    from app.grid import Grid, Layout

    sequences = held_out.batches * held_out.batch_size
    folder, step = subject.checkpoint.folder, subject.checkpoint.step
    if as_json:
        facts: dict[str, Any] = {"run": subject.run_id, "checkpoint": str(folder), "step": step}
        facts |= {"task": spec.task.model_dump(mode="json"), "sequences": sequences, "seed": held_out.seed}
        listed = [{"length": row.length, "metrics": dict(row.metrics), "seconds": row.seconds} for row in rows]
        data_json({**facts, "rows": listed})
        return
    keys = list(rows[0].metrics)
    names = [key.removeprefix("valid/") for key in keys]
    cells = [[str(row.length), *(number(row.metrics[key]) for key in keys), duration(row.seconds)] for row in rows]
    titles = ["length", *names, "time"]
    table(Grid(titles, cells, Layout(right=titles)))
    say(
        f"{spec.task.name}, {sequences} held-out sequences at each length; {folder.name} of {subject.run_id or folder.parent}"
    )
