"""Evaluation at other lengths than the trained one, in memory that does not grow with the length where the model allows it.

A model whose layers all keep a state of fixed size (S6 and S4D in any block) reads a long sequence in pieces and carries
its state from piece to piece. Only the tokens themselves are as long as the sequence: inputs and targets of the batch and
of the 16 sequences that a task draws at once, half a GB at 2^20 positions. Attention and Hyena remember every position.
They read a sequence whole, few at a time, up to a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from workers.errors import SpecError
from workers.models import LanguageModel
from workers.specs import (
    AssociativeRecallSpec,
    CopyingSpec,
    ModelSpec,
    ModularArithmeticSpec,
    SelectiveCopyingSpec,
    TaskSpec,
)
from workers.tasks import Batch, EvalTotals, build_task
from workers.training.context import never_stop
from workers.training.determinism import EVALUATION_SEED
from workers.training.precision import Placement
from workers.validation import describe_errors

PIECE_TOKENS = 2**15  # positions of all sequences of a batch that are computed at once on a CPU
PIECE_TOKENS_CUDA = 2**18  # with fewer, a GPU waits for the host
PIECE_WIDTH = 256  # narrower models take as many more
PIECE_LOGITS = 2**26  # and numbers that the head may give at once: 256 MiB in fp32
LONGEST_ATTENTION = 2**16  # work grows with the square; the paper's ran out of memory beyond 2^14
LONGEST_HYENA = 2**20  # one sequence of it takes some GiB at width 128


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How much of the held-out stream an evaluation reads: `batches` of `batch_size` sequences of the stream `seed`."""

    batches: int
    batch_size: int
    seed: int = EVALUATION_SEED


@dataclass(frozen=True, slots=True)
class LengthRow:
    """The task's metrics at one length, and the seconds that it took."""

    length: int
    metrics: Mapping[str, float]
    seconds: float


def own_length(task: TaskSpec) -> int:
    """Return the length that a task's spec asks for: `seqlen`, or `context` of the copying tasks."""
    match task:
        case CopyingSpec() | SelectiveCopyingSpec():
            return task.context
        case AssociativeRecallSpec():
            return 2 * task.pairs + 2
        case ModularArithmeticSpec():
            return 2 * task.operands
    return task.seqlen


def task_at(task: TaskSpec, length: int) -> TaskSpec:
    """Return a task's spec at another length.

    Raises:
        SpecError: the task's length is no setting of its own, or it cannot be so short.
    """
    if length == own_length(task):
        return task
    if isinstance(task, AssociativeRecallSpec | ModularArithmeticSpec):
        raise SpecError(
            f"the length of {task.name} follows from another setting, so it is evaluated at its own length "
            f"{own_length(task)} only, got {length}. Change task.pairs or task.operands."
        )
    field = "context" if isinstance(task, CopyingSpec | SelectiveCopyingSpec) else "seqlen"
    try:
        return type(task).model_validate({**task.model_dump(), field: length})
    except ValidationError as error:
        raise SpecError(f"length {length} of {task.name}: {describe_errors(type(task), error, 'task.')}") from None


def remembers_everything(spec: ModelSpec) -> bool:
    """Say whether a model's memory grows with the sequence: attention's cache, or Hyena's inputs."""
    return any(layer.mixer == "attention" or layer.inner == "hyena" for layer in spec.layers())


def refusal(spec: ModelSpec, length: int) -> str:
    """Return why a model is not evaluated at a length, or nothing."""
    limits: list[tuple[int, str]] = []
    for layer in spec.layers():
        if layer.mixer == "attention":
            limits.append((LONGEST_ATTENTION, "attention keeps every position, so that its memory and work grow"))
            if spec.positions == "learned":
                limits.append((spec.max_positions, "learned positions end at model.max_positions"))
        elif layer.inner == "hyena":
            limits.append((LONGEST_HYENA, "Hyena keeps every position, so that its memory grows"))
            if spec.hyena_positions == "learned":
                limits.append((spec.hyena_l_max, "learned positions end at model.hyena_l_max"))
    limit, why = min(limits, default=(length, ""))
    return f"this model is evaluated up to length {limit}, got {length}: {why}" if length > limit else ""


def evaluate_lengths(
    model: LanguageModel,
    task: TaskSpec,
    lengths: Sequence[int],
    held_out: HeldOut,
    placement: Placement,
    *,
    should_stop: Callable[[], bool] = never_stop,
) -> Iterator[LengthRow]:
    """Yield the task's metrics at each length, in order; end early where a stop came in between.

    As in `evaluate`, the model runs in eval mode without gradients and is put back into the mode it was in.

    Raises:
        SpecError, TaskError: the task cannot be of a length, or the model is not evaluated at it (`refusal`).
    """
    for length in lengths:
        if why := refusal(model.spec, length):
            raise SpecError(why)
        started = time.monotonic()
        metrics = _evaluate(model, task_at(task, length), held_out, placement, should_stop)
        if metrics is None:
            return
        yield LengthRow(length, metrics, time.monotonic() - started)


def stream(model: LanguageModel, tokens: Tensor, piece: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (start, logits) of a batch's pieces of up to `piece` positions, in order; the state is carried along."""
    seqlen = tokens.shape[1]
    state = model.allocate_state(len(tokens), tokens.device) if piece < seqlen else None
    for start in range(0, seqlen, piece):
        yield start, model(tokens[:, start : start + piece], state)


def cut(model: LanguageModel, batch: int, seqlen: int, device: torch.device) -> tuple[int, int]:
    """Return how many sequences of a batch, and how many positions of each, are computed at once."""
    tokens = PIECE_TOKENS_CUDA if device.type == "cuda" else PIECE_TOKENS
    if remembers_everything(model.spec):
        return max(1, min(batch, tokens // seqlen)), seqlen
    if device.type == "cuda":
        tokens *= max(1, PIECE_WIDTH // model.spec.d_model)
    return batch, max(1, min(tokens // batch, PIECE_LOGITS // (batch * model.vocab_size)))


def _evaluate(
    model: LanguageModel, spec: TaskSpec, held_out: HeldOut, placement: Placement, should_stop: Callable[[], bool]
) -> dict[str, float] | None:
    task = build_task(spec)
    rows, piece = cut(model, held_out.batch_size, task.seqlen, placement.device)
    totals = EvalTotals(placement.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), placement.autocast():
            batches = task.evaluation(held_out.seed, held_out.batches, held_out.batch_size, placement.device)
            for part in _parts(batches, rows):
                if should_stop():
                    return None
                totals.add_pieces(
                    (logits.float(), part.targets[:, start : start + piece])
                    for start, logits in stream(model, part.inputs, piece)
                )
    finally:
        model.train(was_training)
    return task.metrics(totals)


def _parts(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    for batch in batches:
        for start in range(0, len(batch.inputs), rows):
            yield Batch(batch.inputs[start : start + rows], batch.targets[start : start + rows])
