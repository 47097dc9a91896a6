"""A run's training steps without the run around them: to be timed, and to be taken apart into kernels."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # made at run time

from workers.models import LanguageModel, build_model
from workers.specs import RunSpec
from workers.tasks import Task, build_task
from workers.training.captured import WARM_UP, build_stepper
from workers.training.context import MemorySink
from workers.training.determinism import seed_global
from workers.training.ensemble_update import EnsembleUpdate, Member
from workers.training.optim import build_optimizer
from workers.training.precision import Placement
from workers.training.update import RunUpdate
from workers.training.window import Window

_LAP = 32  # steps asked for at once, between two looks at the clock
_SETTLE = 2  # laps after the warm-up in which everything is recorded, compiled and allocated


class Steps(Protocol):
    """What can be timed and taken apart: steps of some model, of so many `tokens` each.

    `model` is what is trained, with so many `parameters`.
    """

    placement: Placement
    tokens: int
    parameters: int

    @property
    def model(self) -> nn.Module: ...

    def settle(self) -> None:
        """Do steps until the next ones cost what all later ones cost."""

    def advance(self, steps: int) -> None:
        """Ask for so many steps; the device may be behind on return."""

    def mode(self) -> tuple[str, str]:
        """Return "captured" or "eager", and why; it is settled once the steps have settled."""


class Rig:
    """Steps of a spec's run, from its first on. The caller puts it inside `reproducible(placement)`.

    `task` stands in for the one that the spec names, for what a spec cannot name. With `members` so many runs of
    the spec, of seeds one after another, are trained at once as an ensemble; `model` is then the first one's.
    """

    def __init__(
        self,
        spec: RunSpec,
        placement: Placement,
        *,
        task: Task | None = None,
        members: int = 1,
    ) -> None:
        self.spec, self.placement, self._sink = spec, placement, MemorySink()
        self.task = task or build_task(spec.task)
        seed_global(spec.seed, "init")
        self.model = build_model(spec.model, self.task.vocab_size).to(placement.device)
        self.model.train()
        seed_global(spec.seed, "dropout")
        update: RunUpdate | EnsembleUpdate
        if members == 1:
            optimizer = build_optimizer(self.model, spec.train)
            update = RunUpdate(spec, task=self.task, model=self.model, optimizer=optimizer, placement=placement)
        else:
            update = EnsembleUpdate([self._member(spec.seed + place) for place in range(members)], placement)
        self._window = Window(_LAP, placement.device, members=update.members)
        self.tokens = spec.train.batch_size * self.task.seqlen * members
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters()) * members
        self._stepper = build_stepper(
            update, self._window, spec.train, placement, self._sink, operations=update.operations
        )
        self._step = 0

    def _member(self, seed: int) -> Member:
        """Return one of the runs of an ensemble; the first has the rig's own model."""
        spec, model = self.spec.model_copy(update={"seed": seed}), self.model
        if seed != self.spec.seed:
            seed_global(seed, "init")
            model = build_model(spec.model, self.task.vocab_size).to(self.placement.device)
        assert isinstance(model, LanguageModel)
        return Member(spec, self.task, model, build_optimizer(model, spec.train), 0)

    def settle(self) -> None:
        """Do steps until the next ones cost what all later ones cost."""
        self.advance(WARM_UP)
        for _ in range(_SETTLE):
            self.advance(max(1, self._stepper.most) + 1)
        self.placement.synchronize()

    def advance(self, steps: int) -> None:
        """Ask for so many steps, without measuring accuracy; the device may be behind on return."""
        end = self._step + steps
        while self._step < end:
            take = min(self._stepper.most, end - self._step, _LAP)
            if self._window.length + take > _LAP:
                self._window.clear()
            self._stepper.advance(range(self._step + 1, self._step + take + 1), measure=False)
            self._step += take

    def mode(self) -> tuple[str, str]:
        """Return "captured" or "eager", and why; it is settled once the steps have settled."""
        fact = self._sink.facts("step")[-1]
        return str(fact["mode"]), str(fact["why"])

    def loss(self) -> float:
        """Return the newest step's loss, of an ensemble the first member's; waits for the device."""
        losses, _ = self._window.read()
        return float(losses[-1] if isinstance(losses[-1], float) else losses[-1][0])


@dataclass(frozen=True, slots=True)
class Rate:
    """Steps a second: the median of some laps, and their 20th and 80th percentile."""

    median: float
    p20: float
    p80: float
    laps: int


def measure_rate(rig: Steps, *, budget_s: float = 1.0, laps: int = 5) -> Rate:
    """Time settled steps in laps of equal length that take about `budget_s` together."""
    started = time.perf_counter()
    rig.advance(_LAP if rig.placement.device.type == "cuda" else 1)
    rig.placement.synchronize()
    one = (time.perf_counter() - started) / (_LAP if rig.placement.device.type == "cuda" else 1)
    steps = max(1, round(budget_s / laps / one))
    rates = []
    for _ in range(laps):
        started = time.perf_counter()
        rig.advance(steps)
        rig.placement.synchronize()
        rates.append(steps / (time.perf_counter() - started))
    fifths = statistics.quantiles(rates, n=5, method="inclusive")
    return Rate(statistics.median(rates), fifths[0], fifths[3], laps)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What one kernel (on a CPU: one operator) takes of a step."""

    name: str
    calls: float
    microseconds: float


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A step taken apart: kernels, longest first; how many run in it; how long the device is busy with any of them."""

    kernels: tuple[Kernel, ...]
    launches: float
    busy_microseconds: float


def take_apart(rig: Steps, steps: int, *, trace: Path | None = None) -> Anatomy:
    """Profile so many settled steps; with `trace` also write what Chrome, Perfetto and TensorBoard open, host included."""
    on_gpu = rig.placement.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    if trace is not None or not on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CPU)
    with torch.profiler.profile(activities=activities) as profile:
        rig.advance(steps)
        rig.placement.synchronize()
    if trace is not None:
        profile.export_chrome_trace(str(trace))
    if on_gpu:
        found: Any = profile.profiler
        return _of_device(found.kineto_results.events(), steps)
    rows = [(row.key, row.count, row.self_cpu_time_total) for row in profile.key_averages()]
    kernels = [Kernel(name, count / steps, spent / steps) for name, count, spent in rows if spent > 0]
    return _ranked(kernels, sum(kernel.microseconds for kernel in kernels))


def _of_device(events: Iterable[Any], steps: int) -> Anatomy:
    spent: dict[str, list[int]] = defaultdict(list)
    spans = []
    for event in events:
        if event.device_type() == DeviceType.CUDA and not event.is_user_annotation():
            spent[event.name()].append(event.duration_ns())
            spans.append((event.start_ns(), event.start_ns() + event.duration_ns()))
    kernels = [Kernel(name, len(times) / steps, sum(times) / steps / 1e3) for name, times in spent.items()]
    return _ranked(kernels, union(spans) / steps / 1e3)


def _ranked(kernels: list[Kernel], busy: float) -> Anatomy:
    ranked = sorted(kernels, key=lambda kernel: -kernel.microseconds)
    return Anatomy(tuple(ranked), sum(kernel.calls for kernel in kernels), busy)


def union(spans: list[tuple[int, int]]) -> int:
    """Return how much the spans (start, end) cover together, what several cover counted once."""
    covered, reached = 0, 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered
