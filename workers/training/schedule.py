"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from workers.specs import TrainSpec


def learning_rate(train: TrainSpec, step: int) -> float:
    """Return the learning rate of an update; the first step is 1.

    Warmup is linear, `lr * step / warmup_steps`, so that step `warmup_steps` is the first at the full rate. After it
    the rate stays (`constant`) or follows half a cosine that reaches `min_lr` at step `steps` and stays there
    (`cosine`). With a cosine, resuming with another `steps` changes the rate of the steps to come.

    Raises:
        ValueError: a step below 1.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    if step <= train.warmup_steps:
        return train.lr * step / train.warmup_steps
    if train.schedule == "constant":
        return train.lr
    span = train.steps - train.warmup_steps
    progress = min(1.0, (step - train.warmup_steps) / span) if span > 0 else 1.0
    return train.min_lr + (train.lr - train.min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))
