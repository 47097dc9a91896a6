"""Evaluation of all members of an ensemble at once, as each member's own loop asks for its share.

The loops take their turns one after another. Whichever asks first, after some steps, has all members evaluated that want the same
then; the others find theirs done. A member that wants something else is evaluated alone, by its own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, Literal

from workers.specs import RunSpec
from workers.tasks import Task
from workers.training.evaluation import HeldOutStream, evaluate_together
from workers.training.extrapolation import Examiner, HeldOut, LengthRow
from workers.training.precision import Placement
from workers.training.readers import Reader

_ALIKE = ("steps", "eval_every", "eval_batches", "eval_batch_size", "eval_lengths")


class _Answer(Enum):
    ALONE = auto()


ALONE: Final = _Answer.ALONE
"""The member is to be evaluated by its own loop."""

Alone = Literal[_Answer.ALONE]


class SharedEvaluation:
    """What was found of each member since the last steps."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._reader: Reader | None = None
        self._tasks: list[Task] = []
        self._stream: HeldOutStream | None = None
        self._examiner: Examiner | None = None
        self._members: list[int] = []  # their indices, in the order of the reader's models
        self._spec: RunSpec | None = None  # of the first one, while all want the same
        self._ends = False
        self._metrics: dict[int, dict[str, float]] = {}
        self._rows: dict[int, dict[int, LengthRow]] = {}  # by length

    def of(self, reader: Reader, tasks: Sequence[Task]) -> None:
        """Evaluate these models from the next steps on."""
        self._reader, self._tasks = reader, list(tasks)
        self._stream = self._examiner = None

    def renew(self, members: Sequence[tuple[int, RunSpec, int]]) -> None:
        """Forget what was found, since the reader's models have done steps; index, spec and last step of each member."""
        self._members = [index for index, _, _ in members]
        self._metrics, self._rows, self._examiner = {}, {}, None
        wanted = {(step, *(getattr(spec.train, name) for name in _ALIKE)) for _, spec, step in members}
        _, self._spec, step = members[0]
        self._ends = step == self._spec.train.steps
        if len(wanted) > 1:
            self._spec = None

    def metrics(self, index: int, should_stop: Callable[[], bool]) -> dict[str, float] | Alone | None:
        """Return a member's metrics on the held-out stream; None where a stop came in between."""
        if index in self._metrics:
            return self._metrics[index]
        if self._reader is None or self._spec is None:
            return ALONE
        if self._stream is None:
            self._stream = HeldOutStream(
                self._tasks[0], self._reader.spec, self._spec.train, self._placement, len(self._tasks)
            )
        found = evaluate_together(self._reader, self._tasks, self._stream, should_stop=should_stop)
        if found is None:
            return None
        self._metrics = dict(zip(self._members, found, strict=True))
        return self._metrics[index]

    def at_length(self, index: int, length: int, should_stop: Callable[[], bool]) -> LengthRow | Alone | None:
        """Return what is found of a member at a length, where training ends for all; None where a stop came in between."""
        if self._reader is None or self._spec is None or not self._ends:
            return ALONE
        if length not in self._rows:
            if self._examiner is None:
                self._examiner = Examiner(self._reader, self._spec.task, HeldOut.of(self._spec.train))
            found = self._examiner.examine(length, should_stop)
            if found is None:
                return None
            self._rows[length] = dict(zip(self._members, found, strict=True))
        return self._rows[length][index]
