"""Evaluation on the held-out stream."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workers.models import LanguageModel
from workers.specs import TrainSpec
from workers.tasks import EvalTotals, Task
from workers.training.context import never_stop
from workers.training.determinism import EVALUATION_SEED
from workers.training.fused_loss import choose, logits_in_pieces
from workers.training.precision import Placement


def evaluate(
    model: LanguageModel,
    task: Task,
    train: TrainSpec,
    placement: Placement,
    *,
    should_stop: Callable[[], bool] = never_stop,
) -> dict[str, float] | None:
    """Return the task's metrics over `eval_batches` held-out batches, or None where a stop came in between.

    Totals are weighted by token, so how the sequences are cut into batches does not matter. The model runs in eval
    mode without gradients and is put back into the mode it was in; torch's global generators are not drawn from.
    """
    was_training = model.training
    batch_size = train.eval_batch_size or train.batch_size
    parts = 1 if train.eval_batch_size else train.accumulate
    totals = EvalTotals(placement.device)
    model.eval()
    try:
        with torch.no_grad():
            for batch in task.evaluation(EVALUATION_SEED, train.eval_batches, batch_size, placement.device):
                if should_stop():
                    return None
                for part in batch.cut(parts):
                    with placement.autocast():
                        if choose(train, model, placement, captured=True).fused:
                            logits = logits_in_pieces(model, part.inputs)
                            totals.add_pieces((one.float(), part.targets[:, piece]) for piece, one in logits)
                        else:
                            totals.add(model(part.inputs).float(), part.targets)
    finally:
        model.train(was_training)
    return task.metrics(totals)
