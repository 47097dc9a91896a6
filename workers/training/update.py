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

import contextlib
import operator
from collections.abc import Hashable, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from workers.models import LanguageModel
from workers.specs import RunSpec
from workers.tasks import IGNORE, Batch, Curriculum, Task
from workers.training.beside import Beside
from workers.training.context import JSON
from workers.training.determinism import derive_seed
from workers.training.fused_loss import Loss, choose
from workers.training.objective import Objective
from workers.training.optim import StepRates, clip_gradients
from workers.training.precision import Placement
from workers.training.prefetch import Prefetch, prefetches
from workers.training.projections import Projections
from workers.training.ranks import Ranks
from workers.training.recompute import Recomputation
from workers.training.schedule import learning_rate
from workers.training.stacked_draws import draw_together
from workers.training.streams import Streams
from workers.training.window import Window

LARGE_STEP = (
    1e12  # floating-point operations; above, a step takes some milliseconds, and what lies between kernels nothing
)


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
        """Return the generators that the first `slots` slots draw from, if any, which a graph must know."""

    def prepare(self, steps: range) -> None:
        """Make the first slots ready for steps: the host's half, done anew before each time that the device's half runs."""

    def draw(self, slot: int) -> Any:
        """Return what `compute` takes of a slot's step: all that does not depend on the model."""

    def compute(self, batch: Any, slot: int, *, measure: bool) -> Any:
        """Do the update on the device; return what `outcome` takes."""

    def outcome(self, done: Any) -> Tensor:
        """Return fp32 (3, *members): loss, norm before clipping, accuracy if measured. Nothing of it moves a parameter."""

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
            self._update.prepare(range(step, step + 1))
            done = self._update.compute(self._update.draw(0), 0, measure=measure and step == steps[-1])
            self._window.record(self._update.outcome(done)[None])


class RunUpdate:
    """The update of one run: its own data stream, micro-batches, clipping and AdamW.

    `operations` is about how many floating-point operations a step takes. On CUDA small steps have a `beside` of their own;
    another may be given where there is none.
    """

    members: tuple[int, ...] = ()

    def __init__(
        self,
        spec: RunSpec,
        *,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        placement: Placement,
        beside: Beside | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._spec, self._task = spec, task
        self._optimizer, self._placement = optimizer, placement
        self._parameters = list(model.parameters())
        tokens = spec.train.batch_size * task.seqlen
        self.operations = 6.0 * tokens * sum(parameter.numel() for parameter in self._parameters)
        on_gpu = placement.device.type == "cuda"
        recomputes = spec.train.activation_checkpointing != "off"
        # work beside the chain keeps what it is made of, which is what recomputing is to save
        if on_gpu and spec.train.accumulate == 1 and self.operations <= LARGE_STEP and not recomputes:
            beside = Beside(placement.device)
        self._beside = beside
        self._projections = Projections(model, placement.device, beside) if on_gpu or beside else None
        if isinstance(model, LanguageModel):
            model.through = self._recomputation() if recomputes else None
        self._prefetch, self._ranks = None, ranks
        if prefetches(spec.train, task, placement.device):
            self._ahead = torch.Generator(placement.device)
            self._prefetch = Prefetch(self._drawn_ahead, placement.device, last=spec.train.steps)
        captured = on_gpu and spec.train.capture != "off" and not self.refusal()
        self._loss = choose(spec.train, model, placement, captured=captured)
        self._objective = Objective(model, self._loss, self._projections)
        self._rates = StepRates(optimizer, placement.device)
        self._steps: list[int] = []
        self._streams: Streams | None = None
        if self._prefetch is None:
            self._streams = Streams(task, spec.train.batch_size, placement.device, runs=1)

    def reserve(self, slots: int) -> None:
        """Make so many slots."""
        self._rates.reserve(slots)
        if self._streams is not None:
            self._streams.reserve(slots)
        self._steps += [1] * (slots - len(self._steps))

    def streams(self, slots: int) -> Sequence[torch.Generator]:
        """Return the data streams of the first slots that are generators."""
        return () if self._streams is None else self._streams.generators(slots)

    def prepare(self, steps: range) -> None:
        """Seed the slots' streams from the run's seed and their steps alone, and set the slots' learning rates."""
        train = self._spec.train
        self._steps[: len(steps)] = steps
        for slot, step in enumerate(steps):
            self._rates.set(slot, learning_rate(train, step))
        if self._streams is not None:
            self._streams.begin([[self._seed(step)] for step in steps], [[self._share(step)] for step in steps])

    def draw(self, slot: int) -> _Drawn:
        """Return the whole batch, which depends on the run's seed and the step alone, and on `steps` in a curriculum."""
        if self._prefetch is not None:
            drawn: _Drawn = self._prefetch.take(self._steps[slot])
            return drawn
        assert self._streams is not None
        return self._drawn(self._streams.sample(slot))

    def _drawn_ahead(self, step: int) -> _Drawn:
        self._ahead.manual_seed(self._seed(step))
        size, device = self._spec.train.batch_size, self._placement.device
        return self._drawn(draw_together(self._task, [self._ahead], size, device, [self._share(step)]))

    def _drawn(self, batch: Batch) -> _Drawn:
        supervised = (batch.targets != IGNORE).sum()
        return _Drawn(batch, supervised, supervised.float().reciprocal())

    def _seed(self, step: int) -> int:
        return derive_seed(self._spec.seed, "data", step)

    def _share(self, step: int) -> float:
        return (step - 1) / self._spec.train.steps

    def compute(self, batch: _Drawn, slot: int, *, measure: bool) -> Done | Tensor:
        """Do the update, in micro-batches where the spec asks for them."""
        limit = self._spec.train.clip_grad_norm
        self._optimizer.zero_grad(set_to_none=True)
        with contextlib.nullcontext() if self._projections is None else self._projections.step():
            parts = [
                self._add_gradients(part, batch.weight, measure=measure)
                for part in batch.whole.cut(self._spec.train.accumulate)
            ]
        if self._ranks is not None:
            self._ranks.add_up_gradients(self._parameters)
        norm = clip_gradients(self._parameters, limit, self._optimizer) if limit else None
        self._rates.bind(slot)
        if norm is None:  # the optimizer need not wait for it
            with contextlib.nullcontext() if self._beside is None else self._beside.fork():
                norm = clip_gradients(self._parameters, 0.0, self._optimizer)
        self._optimizer.step()
        if self._beside is not None:
            self._beside.join()
        done = Done(parts, norm, batch.supervised, measure)
        # in the chain: two sums of ranks on their way at once could meet in another order elsewhere
        return done if self._ranks is None else self._ranks.whole(done.outcome())

    def outcome(self, done: Done | Tensor) -> Tensor:
        """Return loss, norm and accuracy, of all ranks."""
        return done if isinstance(done, Tensor) else done.outcome()

    def stage(self, step: int) -> Hashable:
        """Return the curriculum's stage at a step; a task without a curriculum has one stage."""
        return self._task.stage(self._share(step)) if isinstance(self._task, Curriculum) else None

    def refusal(self) -> str:
        """Return why a graph cannot hold the steps: batches out of host memory, or dropout that is drawn a second time."""
        if self._prefetch is not None:
            return "batches come out of host memory, from a thread that draws them ahead"
        if self._spec.train.activation_checkpointing != "off" and self._spec.model.dropout:
            return "activations that are computed again need dropout's random state, which a graph cannot hold"
        return ""

    def facts(self) -> dict[str, JSON]:
        """Return what the record keeps about how memory is saved."""
        return {
            "activation_checkpointing": self._spec.train.activation_checkpointing,
            "prefetch": self._prefetch is not None,
            "loss": self._loss.name,
            "loss_why": self._loss.why,
        }

    def _recomputation(self) -> Recomputation:
        again = contextlib.nullcontext if self._projections is None else self._projections.again
        train = self._spec.train
        return Recomputation(train.activation_checkpointing, random=self._spec.model.dropout > 0, again=again)

    def _add_gradients(self, part: Batch, weight: Tensor, *, measure: bool) -> tuple[Tensor, Tensor]:
        """Add a micro-batch's gradients, of this rank's rows; return the sum of its losses and, where measured, how many are right.

        Each of its supervised positions weighs as much as those of the whole step do, so that all count alike wherever
        the cuts are. All that the pass held is free on return.
        """
        if self._ranks is not None:
            part = self._ranks.share(part)
        with (
            self._placement.autocast(),
            contextlib.nullcontext() if self._projections is None else self._projections.forward(),
        ):
            loss: Loss = self._objective(part.inputs, part.targets, weight, measure=measure)
        torch.autograd.backward(loss.root, loss.gradient)
        return loss.total, loss.hits


class Done(NamedTuple):
    """Of a step that is done: each micro-batch's sum of losses and hits, the norm, and the supervised positions; one a member."""

    parts: Sequence[tuple[Tensor, Tensor]]
    norm: Tensor
    supervised: Tensor
    measured: bool

    def outcome(self) -> Tensor:
        """Return loss, norm and accuracy; the norm again where that is not measured."""
        loss = reduce(operator.add, (total for total, _ in self.parts)) / self.supervised
        if not self.measured:
            return torch.stack((loss, self.norm, self.norm))
        return torch.stack((loss, self.norm, reduce(operator.add, (hits for _, hits in self.parts)) / self.supervised))


class _Drawn(NamedTuple):
    """A whole batch, how many of its positions are supervised, and what each of these weighs in the mean."""

    whole: Batch
    supervised: Tensor
    weight: Tensor
