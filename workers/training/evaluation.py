"""Evaluation on the held-out stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from workers.models import LanguageModel
from workers.specs import ModelSpec, TrainSpec
from workers.tasks import Batch, EvalTotals, Task
from workers.training.context import never_stop
from workers.training.cutting import PIECE_LOGITS, merged
from workers.training.determinism import EVALUATION_SEED
from workers.training.fused_loss import choose, logits_in_pieces
from workers.training.precision import Placement
from workers.training.readers import Reader

NUMBERS_AT_ONCE = 2**25
"""On a GPU, positions x d_model x models: a forward pass holds some ten times as many numbers, far fewer than a large step."""

KEPT = 2**21  # positions: 32 MiB of tokens and targets are not drawn again at each evaluation


class HeldOutStream:
    """The batches that a run, or each run of an ensemble, is evaluated on; few enough ones are drawn once.

    On a GPU they are as large as fits: a batch of a tiny model leaves it to the host's pace.
    """

    def __init__(self, task: Task, model: ModelSpec, train: TrainSpec, placement: Placement, members: int = 1) -> None:
        self._task, self._device = task, placement.device
        size = train.eval_batch_size or train.batch_size
        most = min(NUMBERS_AT_ONCE // model.d_model, PIECE_LOGITS // task.vocab_size) // members
        times = merged(train.eval_batches, size, most // task.seqlen) if placement.device.type == "cuda" else 1
        self._parts = 1 if train.eval_batch_size or times > 1 else train.accumulate
        self._batches, self._size = train.eval_batches // times, size * times
        self._kept: list[Batch] = []
        self._keeps = train.eval_batches * size * task.seqlen <= KEPT

    def parts(self) -> Iterator[Batch]:
        """Yield the batches, or micro-batches of them."""
        batches: Iterable[Batch] = self._kept or self._task.evaluation(
            EVALUATION_SEED, self._batches, self._size, self._device
        )
        if self._keeps and not self._kept:
            batches = self._kept = list(batches)
        for batch in batches:
            yield from batch.cut(self._parts)


def evaluate(
    model: LanguageModel,
    task: Task,
    train: TrainSpec,
    placement: Placement,
    *,
    should_stop: Callable[[], bool] = never_stop,
    stream: HeldOutStream | None = None,
) -> dict[str, float] | None:
    """Return the task's metrics over `eval_batches` held-out batches, or None where a stop came in between.

    Totals are weighted by token, so how the sequences are cut into batches does not matter. The model runs in eval
    mode without gradients and is put back into the mode it was in; torch's global generators are not drawn from.
    """
    stream = stream or HeldOutStream(task, model.spec, train, placement)
    was_training = model.training
    totals = EvalTotals(placement.device)
    model.eval()
    try:
        with torch.no_grad():
            for part in stream.parts():
                if should_stop():
                    return None
                with placement.autocast():
                    if choose(train, model, placement, captured=True).fused:
                        logits = logits_in_pieces(model, part.inputs)
                        totals.add_pieces((one.float(), part.targets[:, piece]) for piece, one in logits)
                    else:
                        totals.add(model(part.inputs).float(), part.targets)
    finally:
        model.train(was_training)
    return task.metrics(totals.each()[0])


def evaluate_together(
    reader: Reader, tasks: Iterable[Task], stream: HeldOutStream, *, should_stop: Callable[[], bool] = never_stop
) -> list[dict[str, float]] | None:
    """Return each model's metrics by its own task's word, as `evaluate` does of one; all models read the stream at once."""
    totals = EvalTotals(reader.placement.device, reader.members)
    with reader.reading():
        for part in stream.parts():
            if should_stop():
                return None
            totals.add(reader.logits(reader.features(part.inputs, None)[0]).float(), part.targets)
    return [task.metrics(one) for task, one in zip(tasks, totals.each(), strict=True)]
