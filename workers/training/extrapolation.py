"""Evaluation at other lengths than the trained one, in memory that does not grow with the length where the model allows it.

A model whose layers all keep a state of fixed size (S6 and S4D in any block) reads a long sequence in pieces and carries
its state from piece to piece. Only the tokens themselves are as long as the sequence: inputs and targets of the batch and
of the 16 sequences that a task draws at once, half a GB at 2^20 positions. Attention and Hyena remember every position.
They read a sequence whole, few at a time, up to a limit.
"""

from __future__ import annotations

import math
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
    TrainSpec,
)
from workers.tasks import IGNORE, Batch, EvalTotals, Task, build_task
from workers.training.context import never_stop
from workers.training.cutting import Cut, cut_stream, positions, remembers_everything
from workers.training.determinism import EVALUATION_SEED
from workers.training.errors import is_out_of_memory
from workers.training.pieces import Pieces
from workers.training.precision import Placement
from workers.training.readers import ModelReader, Reader
from workers.validation import describe_errors

FEWEST = 2**12  # positions: where memory does not suffice for these, it is not for their number
LONGEST_ATTENTION = 2**16  # work grows with the square; the paper's ran out of memory beyond 2^14
LONGEST_HYENA = 2**20  # one sequence of it takes some GiB at width 128


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How much of the held-out stream an evaluation reads: `batches` of `batch_size` sequences of the stream `seed`."""

    batches: int
    batch_size: int
    seed: int = EVALUATION_SEED

    @classmethod
    def of(cls, train: TrainSpec) -> HeldOut:
        """Return what a run that is trained so is evaluated on."""
        return cls(train.eval_batches, train.eval_batch_size or train.batch_size)


@dataclass(frozen=True, slots=True)
class LengthRow:
    """The task's metrics at one length, and the seconds that it took; all models of an ensemble take them together.

    So many `positions` of each model were computed at once; `recorded`: by the replay of a CUDA graph.
    """

    length: int
    metrics: Mapping[str, float]
    seconds: float
    positions: int = 0
    recorded: bool = False


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
    yield from Examiner(ModelReader(model, placement), task, held_out).rows(lengths, should_stop)


def stream(model: LanguageModel, tokens: Tensor, piece: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (start, logits) of a batch's pieces of up to `piece` positions, in order; the state is carried along."""
    seqlen = tokens.shape[1]
    state = model.allocate_state(len(tokens), tokens.device) if piece < seqlen else None
    for start in range(0, seqlen, piece):
        yield start, model(tokens[:, start : start + piece], state)


class Examiner:
    """Evaluates a reader at one length after the other: one model, or all models of an ensemble at once.

    Where the device's memory does not suffice, fewer positions are computed at once from then on.
    """

    def __init__(self, reader: Reader, task: TaskSpec, held_out: HeldOut) -> None:
        self._reader, self._task, self._held_out = reader, task, held_out
        self._limit: int | None = None  # positions at once that memory is thought to hold, once it has shown one
        self._pieces: dict[tuple[int, int], Pieces] = {}

    def rows(self, lengths: Sequence[int], should_stop: Callable[[], bool]) -> Iterator[LengthRow]:
        """Yield a single model's rows; end early where a stop came in between. Raises as `evaluate_lengths`."""
        for length in lengths:
            found = self.examine(length, should_stop)
            if found is None:
                return
            yield found[0]

    def examine(self, length: int, should_stop: Callable[[], bool] = never_stop) -> list[LengthRow] | None:
        """Return a row of each model, or None where a stop came in between. Raises as `evaluate_lengths`."""
        if why := refusal(self._reader.spec, length):
            raise SpecError(why)
        task = build_task(task_at(self._task, length))
        started = time.monotonic()
        while True:
            cut = self._cut(task.seqlen)
            totals = EvalTotals(self._reader.placement.device, self._reader.members)
            try:
                whole = self._read(task, cut, totals, should_stop)
                found = [task.metrics(one) for one in totals.each()] if whole else None
            except (RuntimeError, MemoryError) as error:
                self._limit = cut.at_once // 4
                if not is_out_of_memory(error) or cut.at_once <= FEWEST or self._cut(task.seqlen) == cut:
                    raise
            else:
                break
            self._make_room()
        if found is None:
            return None
        seconds = time.monotonic() - started
        recorded = any(pieces.recorded for pieces in self._pieces.values())
        return [LengthRow(length, metrics, seconds, cut.at_once, recorded) for metrics in found]

    def _cut(self, seqlen: int) -> Cut:
        reader, held_out = self._reader, self._held_out
        device, members = reader.placement.device, math.prod(reader.members)
        most = max(1, positions(reader.spec, reader.vocab_size, device) // members)
        most = most if self._limit is None else min(most, self._limit)
        batches = (held_out.batches, held_out.batch_size)
        return cut_stream(batches, seqlen, most, device, whole=remembers_everything(reader.spec))

    def _make_room(self) -> None:
        self._pieces.clear()
        if self._reader.placement.device.type == "cuda":
            torch.cuda.empty_cache()

    def _read(self, task: Task, cut: Cut, totals: EvalTotals, should_stop: Callable[[], bool]) -> bool:
        """Read the held-out stream; say whether all of it was read."""
        held_out = self._held_out
        count, size = held_out.batches // cut.merged, held_out.batch_size * cut.merged
        with self._reader.reading():
            batches = task.evaluation(held_out.seed, count, size, self._reader.placement.device)
            for part in _parts(batches, cut.rows):
                if should_stop():
                    return False
                totals.add_pieces(self._supervised(part, cut))
        return True

    def _supervised(self, part: Batch, cut: Cut) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits and targets of the positions that have a target in any of the sequences, piece by piece.

        In most tasks these are few, and the head's logits of all others would be nothing but work.
        """
        places = (part.targets != IGNORE).any(0).nonzero().flatten()
        known = places.cpu()
        starts = range(0, part.inputs.shape[1], cut.piece)
        bounds = torch.searchsorted(known, torch.tensor([*starts, part.inputs.shape[1]])).tolist()
        within = {start: (first, last) for start, first, last in zip(starts, bounds, bounds[1:], strict=False)}
        wanted = [first < last for first, last in within.values()]
        for start, features in self._features(part.inputs, cut, wanted):
            end = min(start + cut.piece, part.inputs.shape[1])
            first, last = within[start]
            chosen = slice(start, end)
            targets = part.targets[:, chosen]
            if 2 * (last - first) < end - start:
                columns = places[first:last]
                features, targets = features.index_select(-2, columns - start), part.targets.index_select(1, columns)
            yield self._reader.logits(features).float(), targets

    def _features(self, tokens: Tensor, cut: Cut, wanted: Sequence[bool]) -> Iterator[tuple[int, Tensor]]:
        """Yield (start, features) of the pieces that are wanted, in order."""
        rows, seqlen = tokens.shape
        if cut.piece >= seqlen:
            if wanted[0]:
                yield 0, self._reader.features(tokens, None)[0]
            return
        key = (rows, cut.piece)
        if key not in self._pieces:
            self._pieces[key] = Pieces(self._reader, *key)
        pieces = self._pieces[key]
        pieces.begin()
        for index, start in enumerate(range(0, seqlen, cut.piece)):
            piece, left = tokens[:, start : start + cut.piece], wanted[index + 1 :]
            if wanted[index]:
                yield start, pieces.read(piece, left.count(True))
            elif any(left):
                pieces.skip(piece, left.count(False))


def _parts(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    for batch in batches:
        for start in range(0, len(batch.inputs), rows):
            yield Batch(batch.inputs[start : start + rows], batch.targets[start : start + rows])
