"""`run_ensemble`: several runs that differ in no tensor's shape, trained in one process as one batched model.

Each member is a run of its own: its sink, checkpoints, schedule, data stream, evaluation and end are those of `run_trial`,
and its checkpoints are resumed by either. A member that ends, is stopped or fails leaves; the others go on without it.
Where the members stand at different steps, as after a crash between two checkpoints, each goes on from its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from kernels.common import choice
from workers.errors import SpecError
from workers.packing import differences, refusal
from workers.specs import RunSpec
from workers.training.captured import build_stepper
from workers.training.clock import StepClock
from workers.training.context import JSON, MetricSink, Reason, RunContext, RunResult
from workers.training.determinism import reproducible
from workers.training.ensemble_evaluation import ALONE, SharedEvaluation
from workers.training.ensemble_update import EnsembleUpdate, Member
from workers.training.ensemble_window import MemberWindow, SharedWindow
from workers.training.errors import RunOutOfMemoryError, is_out_of_memory
from workers.training.extrapolation import LengthRow
from workers.training.loop import TrainingLoop
from workers.training.precision import Placement, place
from workers.training.stacked_reader import StackReader
from workers.training.trial import PreparedTrial, out_of_memory, prepare
from workers.training.update import Stepper

Ended = RunResult | Exception
"""How a member ended: its result, or what it failed with."""


def nobody_listens(index: int, ended: Ended) -> None:
    """Take note of nothing."""


def run_ensemble(
    specs: Sequence[RunSpec],
    contexts: Sequence[RunContext],
    *,
    ended: Callable[[int, Ended], None] = nobody_listens,
) -> list[Ended]:
    """Train all runs at once and return how each ended, in their order.

    Args:
        ended: told of each member as soon as it has ended, with its place in `specs`; its sink has been flushed then.

    Raises:
        SpecError: the runs cannot be one ensemble; names the keys.
        DeviceError: they ask for hardware that is not there.
    """
    _check(specs)
    placement = place(specs[0])
    with reproducible(placement):
        return _Ensemble(specs, contexts, placement, ended).run()


def _check(specs: Sequence[RunSpec]) -> None:
    trees = [spec.model_dump(mode="json") for spec in specs]
    for tree in trees:
        if why := refusal(tree):
            raise SpecError(f"the run cannot be a member of an ensemble: {why}")
        if keys := differences(trees[0], tree):
            raise SpecError(
                f"the runs cannot be one ensemble: they differ in {', '.join(keys)}. Members may differ in their seed and "
                "in what neither a tensor's shape nor a forward pass depends on, such as train.lr."
            )


@dataclass(slots=True)
class _Run:
    """A member that is at work, and the steps that it wants to do next."""

    index: int
    trial: PreparedTrial
    loop: TrainingLoop
    window: MemberWindow
    turns: Generator[range, int, Reason]
    wanted: range = field(default_factory=lambda: range(0))


class _Ensemble:
    def __init__(
        self,
        specs: Sequence[RunSpec],
        contexts: Sequence[RunContext],
        placement: Placement,
        ended: Callable[[int, Ended], None],
    ) -> None:
        self.specs, self._contexts, self.placement, self._ended = specs, contexts, placement, ended
        self.clock = StepClock(placement)
        self._alive: list[_Run] = []
        self._outcomes: dict[int, Ended] = {}
        self._stepper: Stepper | None = None  # of the members now at work
        self._steps = 0  # that it has done
        self._held_out = SharedEvaluation(placement)

    def run(self) -> list[Ended]:
        """Train until no member is left."""
        if self.placement.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.placement.device)
        choice.reset_used()
        with self.clock.paused("preparation"):
            for index in range(len(self.specs)):
                self._join(index)
        while self._alive:
            self._advance()
        return [self._outcomes[index] for index in range(len(self.specs))]

    def evaluate(self, loop: _MemberLoop) -> dict[str, float] | None:
        """Return a member's metrics on the held-out stream: all members' at once where they evaluate alike, at this step."""
        found = self._held_out.metrics(loop.index, loop.context.should_stop)
        return TrainingLoop._measure(loop) if found is ALONE else found

    def rows_at(self, loop: _MemberLoop, lengths: Sequence[int]) -> Iterator[LengthRow]:
        """Yield what is found of a member at each length: of all members at once where their training ends together."""
        for done, length in enumerate(lengths):
            row = self._held_out.at_length(loop.index, length, loop.context.should_stop)
            if row is ALONE:
                yield from TrainingLoop._rows_at(loop, lengths[done:])
                return
            if row is None:
                return
            yield row

    def _join(self, index: int) -> None:
        spec, context = self.specs[index], self._contexts[index]
        members: list[JSON] = [one.run_id for one in self._contexts]
        context.sink.note("ensemble", {"members": members, "index": index})
        try:
            trial = prepare(spec, context, self.placement)
        except Exception as error:  # noqa: BLE001 - whatever one member fails with, the others go on
            self._conclude(index, error)
            return
        window = MemberWindow(trial.progress)
        loop = _MemberLoop(self, index, trial, window)
        run = _Run(index, trial, loop, window, loop.turns())
        self._alive.append(run)
        self._turn(run, None)

    def _advance(self) -> None:
        """Do the steps that all members want to do."""
        try:
            stepper = self._stepper or self._stack()
            steps = min(stepper.most, *(len(run.wanted) for run in self._alive))
            measure = any(run.loop.logs(run.wanted[steps - 1]) for run in self._alive)
            stepper.advance(range(self._steps + 1, self._steps + steps + 1), measure=measure)
        except Exception as error:  # noqa: BLE001 - what goes wrong here is every member's end
            for run in list(self._alive):
                self._end(run, error)
            return
        self._steps += steps
        self._held_out.renew([(run.index, run.loop.spec, run.wanted[steps - 1]) for run in self._alive])
        for run in list(self._alive):
            self._turn(run, steps)

    def _turn(self, run: _Run, steps: int | None) -> None:
        """Let a member do what it has to do between steps, its end included."""
        try:
            run.wanted = next(run.turns) if steps is None else run.turns.send(steps)
        except StopIteration as end:
            self._end(run, run.trial.result(end.value, run.loop.stages()))
        except Exception as error:  # noqa: BLE001 - whatever one member fails with, the others go on
            self._end(run, error)

    def _end(self, run: _Run, outcome: Ended) -> None:
        run.window.settle()  # the others' models leave the storage that the window reads from
        self._alive.remove(run)
        run.turns.close()  # a checkpoint of it may still be on its way to the disk
        self._stepper = None
        self._conclude(run.index, outcome)

    def _conclude(self, index: int, outcome: Ended) -> None:
        spec = self.specs[index]
        if isinstance(outcome, RuntimeError | MemoryError) and is_out_of_memory(outcome):
            told = RunOutOfMemoryError(f"{out_of_memory(spec, self.placement, outcome)} It trained with "
                                       f"{len(self.specs) - 1} others at once.")  # fmt: skip
            told.__cause__ = outcome
            outcome = told
        self._outcomes[index] = outcome
        self._contexts[index].sink.flush()
        self._ended(index, outcome)

    def _stack(self) -> Stepper:
        """Make one model of the members at work, and what carries it through the steps."""
        members = [
            Member(run.loop.spec, run.trial.task, run.trial.model, run.trial.optimizer, run.trial.progress.step)
            for run in self._alive
        ]
        update = EnsembleUpdate(members, self.placement)
        rows = max(member.spec.train.log_every for member in members)
        shared = SharedWindow(rows, self.placement.device, [run.window for run in self._alive])
        train = members[0].spec.train
        sink = _Everyone([run.trial.context.sink for run in self._alive])
        self._held_out.of(
            StackReader(update.stack, members[0].model, self.placement), [run.trial.task for run in self._alive]
        )
        self._stepper = build_stepper(update, shared, train, self.placement, sink, operations=update.operations)
        self._steps = 0
        return self._stepper


class _MemberLoop(TrainingLoop):
    """A run's turns between steps, where the steps themselves are done for all members at once."""

    def __init__(self, ensemble: _Ensemble, index: int, trial: PreparedTrial, window: MemberWindow) -> None:
        super().__init__(
            ensemble.specs[index],
            trial.context,
            task=trial.task,
            model=trial.model,
            optimizer=trial.optimizer,
            placement=ensemble.placement,
            store=trial.store,
            progress=trial.progress,
        )
        self.index = index
        self._ensemble = ensemble
        self._window = window
        self._clock = _MemberClock(ensemble.placement, ensemble.clock)

    def _measure(self) -> dict[str, float] | None:
        return self._ensemble.evaluate(self)

    def _rows_at(self, lengths: Sequence[int]) -> Iterator[LengthRow]:
        return self._ensemble.rows_at(self, lengths)


class _MemberClock(StepClock):
    """Counts the ensemble's seconds: while one member evaluates or saves, they count for none."""

    def __init__(self, placement: Placement, shared: StepClock) -> None:
        super().__init__(placement)
        self._shared = shared
        self._before = shared.total()
        self.beside = shared.beside

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Leave a block out of everybody's count."""
        with self._shared.paused(what):
            yield

    def _tick(self) -> float:
        return self._shared._tick() - self._before


class _Everyone:
    """A sink that tells all members' sinks."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self._sinks = sinks

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell all."""
        for sink in self._sinks:
            sink.log(step, metrics)

    def note(self, kind: str, payload: Mapping[str, JSON]) -> None:
        """Tell all."""
        for sink in self._sinks:
            sink.note(kind, payload)

    def flush(self) -> None:
        """Flush all."""
        for sink in self._sinks:
            sink.flush()
