"""One optimizer update of several runs at once, of models that differ in no shape."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.stacked_adamw import serves
from workers.models import LanguageModel
from workers.specs import RunSpec, TrainSpec
from workers.tasks import IGNORE, Curriculum, Task
from workers.training import row_loss
from workers.training.beside import Beside
from workers.training.determinism import derive_seed
from workers.training.optim import StepRates
from workers.training.precision import Placement
from workers.training.schedule import learning_rate
from workers.training.stacked import Stack
from workers.training.stacked_moments import Moments, gather_moments
from workers.training.stacked_optimizer import StackedAdamW
from workers.training.stacked_projections import StackedProjections, TakenOver
from workers.training.stacked_taken import StackedTaken
from workers.training.streams import Streams
from workers.training.update import LARGE_STEP, Done

_LAUNCH = 32  # tensors; PyTorch's fused AdamW takes 36 in one
_ALIGNMENT = 8  # numbers: 32 bytes
_RATES = ("lr", "schedule", "warmup_steps", "min_lr", "beta1", "beta2", "weight_decay")


@dataclass(frozen=True, slots=True)
class Member:
    """One run of an ensemble: what it trains, and the steps that it has done."""

    spec: RunSpec
    task: Task
    model: LanguageModel
    optimizer: torch.optim.AdamW
    step: int

    def seed(self, ahead: int) -> int:
        """Return the data stream's seed of a step so far ahead."""
        return derive_seed(self.spec.seed, "data", self.step + ahead)

    def share(self, ahead: int) -> float:
        """Return the share of all steps that is done before a step so far ahead."""
        return (self.step + ahead - 1) / self.spec.train.steps


class EnsembleUpdate:
    """The update of K runs: each has its own data stream, clipping, rate and AdamW state; the rest is done at once.

    An update's step 1 is the next one of every member, wherever each stands. Each member's outcome is that of its run
    trained alone, up to the order of sums inside matrix products. The members differ as `workers.packing` allows.
    """

    def __init__(self, members: Sequence[Member], placement: Placement) -> None:
        self.members = (len(members),)
        self._members, self._placement = list(members), placement
        # those of one member may be finer than another's: without weight decay what decays and what does not are alike
        groups = max((_groups(member) for member in members), key=len)
        self.stack = Stack([member.model for member in members], groups)
        self._train = members[0].spec.train  # for what all have in common
        tokens = self._train.batch_size * members[0].task.seqlen
        self.operations = 6.0 * tokens * sum(storage.numel() for storage in self.stack.storages)
        beside = placement.device.type == "cuda" and self._train.accumulate == 1 and self.operations <= LARGE_STEP
        self._beside = Beside(placement.device) if beside else None
        self._taken: StackedTaken | None = None
        if serves(self.stack.rows):
            self._taken = StackedTaken(self.stack, torch.bfloat16 if placement.precision == "bf16" else None)
        self._projections = StackedProjections(self.stack, placement.device, self._beside, self._taken)
        self._side_by_side = self.stack.feeding_channels()
        self._moments = gather_moments(self.stack, [member.optimizer for member in members])
        self._cohorts: list[_Cohort] = []
        self._optimizer: StackedAdamW | None = None
        if self._taken is None:
            self._cohorts = _cohorts(members, self.stack, self._moments)
        else:
            self._optimizer = StackedAdamW(
                self.stack,
                self._moments,
                [_settings(member, self.stack, place) for place, member in enumerate(members)],
                trains=[member.spec.train for member in members],
                steps=[member.step for member in members],
                taken=self._taken,
            )
        limits = [member.spec.train.clip_grad_norm or math.inf for member in members]
        self._clips = min(limits) < math.inf
        self._limit = torch.tensor(limits, device=placement.device, dtype=self.stack.rows.dtype)
        self._streams = Streams(members[0].task, self._train.batch_size, placement.device, runs=len(members))

    def reserve(self, slots: int) -> None:
        """Make so many slots."""
        for cohort in self._cohorts:
            cohort.rates.reserve(slots)
        if self._optimizer is not None:
            self._optimizer.reserve(slots)
        self._streams.reserve(slots)

    def streams(self, slots: int) -> Sequence[torch.Generator]:
        """Return the data streams of the first slots that are generators."""
        return self._streams.generators(slots)

    def prepare(self, steps: range) -> None:
        """Seed each member's streams from its own seed and steps, and set its learning rates."""
        members = self._members
        self._streams.begin(
            [[one.seed(step) for one in members] for step in steps],
            [[one.share(step) for one in members] for step in steps],
        )
        if self._optimizer is not None:
            self._optimizer.set(steps)
        for slot, step in enumerate(steps):
            for cohort in self._cohorts:
                cohort.rates.set(slot, learning_rate(cohort.train, cohort.step + step))

    def draw(self, slot: int) -> _Drawn:
        """Return the members' whole batches, each as its run alone draws it: (members, batch, seqlen)."""
        shape = (*self.members, self._train.batch_size, -1)
        inputs, targets = (half.view(shape) for half in self._streams.sample(slot))
        supervised = (targets != IGNORE).flatten(1).sum(1)
        weight = supervised.float().reciprocal()
        return _Drawn(inputs, targets, supervised, weight)

    def compute(self, batch: _Drawn, slot: int, *, measure: bool) -> Done:
        """Do the update, in micro-batches where the specs ask for them."""
        parts = self._train.accumulate
        self.stack.zero_gradients()
        if self._taken is not None and slot == 0:  # behind other slots the step before has made it
            self._taken.renew()
        with self._projections.step():
            sums = [
                self._add_gradients(inputs, targets, batch.weight, measure=measure)
                for inputs, targets in zip(batch.inputs.chunk(parts, 1), batch.targets.chunk(parts, 1), strict=True)
            ]
        norm = self._move(self.stack.gradients(), slot)
        return Done(sums, norm, batch.supervised, measure)

    def outcome(self, done: Done) -> Tensor:
        """Return each member's loss, norm and accuracy."""
        return done.outcome()

    def stage(self, step: int) -> Hashable:
        """Return the members' stages of a curriculum; a task without one has one stage."""
        return tuple(
            member.task.stage(member.share(step)) for member in self._members if isinstance(member.task, Curriculum)
        )

    def refusal(self) -> str:
        """Nothing is known to stand in the way."""
        return ""

    def _add_gradients(
        self, inputs: Tensor, targets: Tensor, weight: Tensor, *, measure: bool
    ) -> tuple[Tensor, Tensor]:
        """Add a micro-batch's gradients; see `RunUpdate`. Both numbers are one a member."""
        with self._placement.autocast(), TakenOver(self._projections, self._side_by_side):
            logits = self.stack.forward(inputs, self._projections.in_one_piece)
        rows, sought = logits.flatten(0, 2), targets.flatten()
        if row_loss.serves(rows):
            slopes, totals, hits = row_loss.row_loss(rows, sought, weight, self._projections.apart, measure=measure)
            torch.autograd.backward(rows, slopes)
            return totals, hits
        losses = F.cross_entropy(rows.float(), sought, ignore_index=IGNORE, reduction="none")
        totals = losses.view(len(inputs), -1).sum(1)
        torch.autograd.backward(totals, weight)
        totals = totals.detach()
        return totals, (logits.detach().argmax(-1) == targets).flatten(1).sum(1) if measure else totals

    def _move(self, gradients: Tensor, slot: int) -> Tensor:
        """Clip and do the optimizers' updates; return the norms before."""
        if self._optimizer is not None:
            return self._optimizer.step(gradients, slot)
        norms = self._clip(gradients) if self._clips else _norms(gradients)
        for cohort in self._cohorts:
            cohort.update(gradients, slot)
        return norms

    def _clip(self, gradients: Tensor) -> Tensor:
        """Clip each member's row of gradients by its own norm, as `clip_gradients` does; return the norms before."""
        norms = _norms(gradients)
        gradients.mul_((self._limit / (norms + 1e-6)).clamp(max=1.0)[:, None])
        return norms


class _Drawn(NamedTuple):
    """The members' batches, (members, batch, seqlen), their supervised positions, and what each weighs in its mean."""

    inputs: Tensor
    targets: Tensor
    supervised: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class _Cohort:
    """Members whose rate is the same at every step: one optimizer moves them all, a stretch of a row at a time.

    `stretches` are the row and the columns of each of its parameters, in their order.
    """

    optimizer: torch.optim.AdamW
    rates: StepRates
    train: TrainSpec
    step: int
    stretches: Sequence[tuple[int, slice]]

    def update(self, gradients: Tensor, slot: int) -> None:
        """Move the members by their rows of gradients, at a slot's rate."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for parameter, (row, columns) in zip(parameters, self.stretches, strict=True):
            parameter.grad = gradients[row, columns]
        self.rates.bind(slot)
        self.optimizer.step()


def _norms(gradients: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return norms


def _groups(member: Member) -> list[list[str]]:
    """Return the names of the parameters that a member's optimizer treats alike."""
    names = {id(parameter): name for name, parameter in member.model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in member.optimizer.param_groups]


def _settings(member: Member, stack: Stack, place: int) -> list[dict[str, Any]]:
    """Return the parameter group of a member's optimizer that each stretch of the stack belongs to."""
    own = {id(parameter): group for group in member.optimizer.param_groups for parameter in group["params"]}
    return [own[id(stack.parameters[place][stretch.names[0]])] for stretch in stack.stretches]


def _cohorts(members: Sequence[Member], stack: Stack, moments: Moments) -> list[_Cohort]:
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, member in enumerate(members):
        train = member.spec.train
        steps = train.steps if train.schedule == "cosine" else 0
        key = (*(getattr(train, name) for name in _RATES), steps, member.step)
        alike.setdefault(key, []).append(place)
    return [_cohort(members, places, stack, moments) for places in alike.values()]


def _pieces(columns: slice, members: int) -> list[slice]:
    """Cut a stretch of so many members' rows so that one launch of the fused optimizer has as many tensors as it takes.

    It gives 65,536 numbers of a tensor to one block of threads: eight whole rows of 74K keep 16 of a GPU's 132 processors busy
    (38 microseconds on an H100, 2026-11-25).
    """
    size = -(-(columns.stop - columns.start) // max(1, _LAUNCH // members) // _ALIGNMENT) * _ALIGNMENT
    return [slice(start, min(start + size, columns.stop)) for start in range(columns.start, columns.stop, size)]


def _cohort(members: Sequence[Member], places: Sequence[int], stack: Stack, moments: Moments) -> _Cohort:
    first = members[places[0]]
    groups: list[dict[str, Any]] = []
    stretches: list[tuple[int, slice]] = []
    state: dict[Tensor, dict[str, Tensor]] = {}
    for index, (stretch, group) in enumerate(zip(stack.stretches, _settings(first, stack, places[0]), strict=True)):
        columns = stretch.columns
        parameters = []
        for place in places:
            for piece in _pieces(columns, len(places)):
                parameter = nn.Parameter(stack.rows[place, piece])
                averages = {"exp_avg": moments.exp_avg[place, piece], "exp_avg_sq": moments.exp_avg_sq[place, piece]}
                step = moments.steps[place][index]  # that of the first piece; the optimizer counts for each
                state[parameter] = {"step": step if piece.start == columns.start else step.clone(), **averages}
                parameters.append(parameter)
                stretches.append((place, piece))
        groups.append({**group, "params": parameters})
    optimizer = torch.optim.AdamW(groups, fused=True, capturable=stack.rows.is_cuda)
    optimizer.state.update(state)
    return _Cohort(optimizer, StepRates(optimizer, stack.rows.device), first.spec.train, first.step, stretches)
