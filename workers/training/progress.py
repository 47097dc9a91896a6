"""How far a run is: the part of its state that is neither a tensor nor random, as it stands in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.errors import CheckpointError


@dataclass(slots=True)
class Progress:
    """What the loop knows after a step.

    Attributes:
        step: updates done.
        evaluated_step: the step of the last evaluation; 0 before the first.
        lengths_step: the step after which `train.eval_lengths` were last evaluated, perhaps not all; 0 before.
        latest: last value of every logged metric that a resumed run must still know (train and valid).
        losses, norms: loss and gradient norm of each step since the last logged one (filled in for a checkpoint).
        last_finite: the newest finite loss that the host has seen.
        train_seconds: time in steps over all attempts.
    """

    step: int = 0
    evaluated_step: int = 0
    lengths_step: int = 0
    latest: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    last_finite: float | None = None
    train_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the progress as JSON; floats survive exactly (Python writes the shortest text that reads back)."""
        return {
            "evaluated_step": self.evaluated_step,
            "lengths_step": self.lengths_step,
            "latest": dict(self.latest),
            "losses": list(self.losses),
            "norms": list(self.norms),
            "last_finite": self.last_finite,
            "train_seconds": self.train_seconds,
        }

    @classmethod
    def from_json(cls, step: int, tree: Mapping[str, Any]) -> Progress:
        """Return the progress that a checkpoint of `step` holds.

        Raises:
            CheckpointError: a field is missing or unknown.
        """
        try:
            return cls(step=step, **tree)
        except TypeError as error:
            raise CheckpointError(f"the checkpoint's progress cannot be read: {error}") from error
