"""One optimizer update, cut where the device takes over from the host; and what drives it step by step.

An `Update` knows how a step is computed, a `Stepper` when. The host half, `prepare`, sets the step's random stream and its
learning rate. The device half, `draw` and `compute`, reads both from the step's slot, never waits for the device and leaves
its outcome there, so that it can run as it stands or be captured into a CUDA graph, for one run or for an ensemble.

| user | update | stepper |
| --- | --- | --- |
| one run, step by step | `RunUpdate` | `EagerStepper` |
| one run, several steps a replay | `RunUpdate` | `workers.training.captured.CapturedStepper` |
| K members in one model | an update whose `members` is (K,) | either |
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.specs import RunSpec
from workers.tasks import IGNORE, Batch, Curriculum, Task
from workers.training.determinism import derive_seed
from workers.training.optim import StepRates, clip_gradients
from workers.training.precision import Placement
from workers.training.schedule import learning_rate
from workers.training.window import Window


class Update(Protocol):
    """How one step is computed. Steps in flight at once have a slot each, numbered from 0.

    Attributes:
        members: () for one run, (K,) where K members are trained at once: the shape of every number of the outcome.
    """

    @property
    def members(self) -> tuple[int, ...]: ...

    def reserve(self, slots: int) -> None:
        """Make so many slots; those that exist stay as they are."""

    def streams(self, slots: int) -> Sequence[torch.Generator]:
        """Return the generators that the first `slots` slots draw from, which a graph must know."""

    def prepare(self, step: int, slot: int) -> None:
        """Make a slot ready for a step: the host's half, done anew before each time that the device's half runs."""

    def draw(self, slot: int) -> Batch:
        """Return the batch of a slot's step, (*members, batch, seqlen) each; it does not depend on the model."""

    def compute(self, batch: Batch, slot: int, *, measure: bool) -> Tensor:
        """Do the update on the device; return fp32 (3, *members): loss, norm before clipping, accuracy if measured."""

    def stage(self, step: int) -> Hashable:
        """Return what `draw` takes from the step besides its stream: steps of one stage are drawn alike."""

    def refusal(self) -> str:
        """Return why `draw` and `compute` cannot be captured, as far as it is known before trying; empty if they can."""


class Stepper(Protocol):
    """What carries an update through the steps. `most` is how many steps it takes at a time."""

    most: int

    def advance(self, steps: range, *, measure: bool) -> None:
        """Do these steps and record them in the window; with `measure` the accuracy of the last one is recorded too."""


class EagerStepper:
    """Launches every operation of every step anew: works everywhere."""

    most = 1

    def __init__(self, update: Update, window: Window) -> None:
        self._update, self._window = update, window
        update.reserve(1)

    def advance(self, steps: range, *, measure: bool) -> None:
        """Do the steps one after another."""
        for step in steps:
            self._update.prepare(step, 0)
            outcome = self._update.compute(self._update.draw(0), 0, measure=measure and step == steps[-1])
            self._window.record(outcome[None])


class RunUpdate:
    """The update of one run: its own data stream, micro-batches, clipping and AdamW."""

    members: tuple[int, ...] = ()

    def __init__(
        self,
        spec: RunSpec,
        *,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        placement: Placement,
    ) -> None:
        self._spec, self._task, self._model = spec, task, model
        self._optimizer, self._placement = optimizer, placement
        self._parameters = list(model.parameters())
        self._rates = StepRates(optimizer, placement.device)
        self._progress: list[float] = []
        self._generators: list[torch.Generator] = []

    def reserve(self, slots: int) -> None:
        """Make so many slots."""
        self._rates.reserve(slots)
        for _ in range(len(self._generators), slots):
            self._generators.append(torch.Generator(self._placement.device))
            self._progress.append(0.0)

    def streams(self, slots: int) -> Sequence[torch.Generator]:
        """Return the data streams of the first slots."""
        return self._generators[:slots]

    def prepare(self, step: int, slot: int) -> None:
        """Seed the slot's stream from the run's seed and the step alone, and set the slot's learning rate."""
        train = self._spec.train
        self._generators[slot].manual_seed(derive_seed(self._spec.seed, "data", step))
        self._progress[slot] = (step - 1) / train.steps
        self._rates.set(slot, learning_rate(train, step))

    def draw(self, slot: int) -> Batch:
        """Return the whole batch, which depends on the run's seed and the step alone, and on `steps` in a curriculum."""
        size, device, generator = self._spec.train.batch_size, self._placement.device, self._generators[slot]
        if isinstance(self._task, Curriculum):
            return self._task.sample_at(generator, size, device, self._progress[slot])
        return self._task.sample(generator, size, device)

    def compute(self, batch: Batch, slot: int, *, measure: bool) -> Tensor:
        """Do the update, in micro-batches where the spec asks for them."""
        train = self._spec.train
        supervised = (batch.targets != IGNORE).sum()
        self._optimizer.zero_grad(set_to_none=True)
        parts = [self._add_gradients(part, supervised, measure=measure) for part in batch.cut(train.accumulate)]
        loss = reduce(operator.add, (share for share, _ in parts))
        norm = clip_gradients(self._parameters, train.clip_grad_norm)
        self._rates.bind(slot)
        self._optimizer.step()
        if not measure:
            return torch.stack((loss, norm, norm))
        return torch.stack((loss, norm, reduce(operator.add, (hits for _, hits in parts)) / supervised))

    def stage(self, step: int) -> Hashable:
        """Return the curriculum's stage at a step; a task without a curriculum has one stage."""
        return self._task.stage((step - 1) / self._spec.train.steps) if isinstance(self._task, Curriculum) else None

    def refusal(self) -> str:
        """Nothing is known to stand in the way."""
        return ""

    def _add_gradients(self, part: Batch, supervised: Tensor, *, measure: bool) -> tuple[Tensor, Tensor]:
        """Add a micro-batch's gradients; return its share of the step's loss and, where measured, how many are right.

        A share is the sum over the micro-batch's supervised positions by the number of those of the whole step, so
        that every position counts alike, wherever the cuts are. All that the pass held is free on return.
        """
        targets = part.targets.flatten()
        with self._placement.autocast():
            logits = self._model(part.inputs).flatten(0, 1)
        share = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum") / supervised
        torch.autograd.backward(share)
        share = share.detach()
        # IGNORE is no token: such positions are never right
        return share, (logits.detach().argmax(-1) == targets).sum() if measure else share
