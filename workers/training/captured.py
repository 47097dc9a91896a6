"""Training steps recorded into CUDA graphs: several steps a replay, with nothing of them left to the host but their seeds.

A tiny model launched operation by operation leaves a GPU idle most of the time. Here a step is recorded once, data, forward,
backward, clipping and optimizer together, and replayed; before each replay the host reseeds the data streams and sets the
learning rates, so that the numbers are those of the eager step, bit for bit. The first steps of an attempt run eagerly: they
compile and choose kernels and make the optimizer's state, and count as any other step. One of them is watched for operations
that wait for the device, which no graph can hold. Where recording is impossible the run goes on eagerly and says why.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.specs import TrainSpec
from workers.training.context import JSON, MetricSink
from workers.training.errors import CaptureError
from workers.training.precision import Placement
from workers.training.update import LARGE_STEP, EagerStepper, Stepper, Update
from workers.training.window import Window

WARM_UP = 3  # eager steps before the first recording; the last of them is watched
MOST_STEPS = 16  # recorded into one graph: the gap between two replays is then below a percent of a tiny model's steps


class Replay(Protocol):
    """Recorded steps. `rows` holds the outcomes of the last replay, (steps, 3, *members)."""

    rows: Tensor

    def replay(self) -> None:
        """Do the steps with what `prepare` left in their slots, and fill `rows`."""


class Recorder(Protocol):
    """What records steps, and notices operations that cannot be recorded."""

    def record(self, update: Update, slots: int, *, measure: bool) -> Replay:
        """Record the steps of so many prepared slots without doing them. Raises RuntimeError where that is impossible."""

    def watch(self) -> contextlib.AbstractContextManager[Sequence[str]]:
        """Collect the places at which a block waits for the device; they are all there once it has ended."""


class CapturedStepper:
    """Replays recorded steps; eager at first, and for good where recording fails.

    Args:
        update: how a step is computed.
        window: takes the outcomes.
        steps_per_replay: how many steps the larger graphs hold; what does not fill one is replayed step by step.
        recorder: `GraphRecorder` on CUDA.
        report: told once what runs: mode, why (empty when captured), steps_per_replay.
    """

    def __init__(
        self,
        update: Update,
        window: Window,
        *,
        steps_per_replay: int,
        recorder: Recorder,
        report: Callable[[Mapping[str, JSON]], None],
    ) -> None:
        update.reserve(steps_per_replay)
        self.most = 1
        self._update, self._window, self._recorder, self._report = update, window, recorder, report
        self._steps_per_replay = steps_per_replay
        self._eager = EagerStepper(update, window)
        self._replays: dict[tuple[int, bool], Replay] = {}
        self._stage: Hashable = None
        self._warm_up_left = WARM_UP
        self._refused = False
        self._reported = False

    def advance(self, steps: range, *, measure: bool) -> None:
        """Do the steps, in replays as long as possible."""
        while steps:
            piece = steps[: self.most] if len(steps) >= self.most and self._alike(steps[: self.most]) else steps[:1]
            self._do(piece, measure=measure and piece[-1] == steps[-1])
            steps = steps[len(piece) :]

    def _alike(self, steps: range) -> bool:
        return self._update.stage(steps[0]) == self._update.stage(steps[-1])

    def _do(self, steps: range, *, measure: bool) -> None:
        if self._warm_up_left and not self._refused:
            self._warm_up(steps, measure=measure)
            return
        replay = None if self._refused else self._recorded(steps, measure=measure)
        if replay is None:
            self._eager.advance(steps, measure=measure)
            return
        self._update.prepare(steps)
        replay.replay()
        self._window.record(replay.rows)

    def _warm_up(self, steps: range, *, measure: bool) -> None:
        self._warm_up_left -= 1
        if self._warm_up_left:
            self._eager.advance(steps, measure=measure)
            return
        with self._recorder.watch() as places:
            self._eager.advance(steps, measure=measure)
        if places:
            self._refuse(f"a step waits for the device at {', '.join(sorted(set(places)))}")
        else:
            self.most = self._steps_per_replay

    def _recorded(self, steps: range, *, measure: bool) -> Replay | None:
        """Return the replay of so many steps, recorded now where there is none yet; None where that fails."""
        stage, key = self._update.stage(steps[0]), (len(steps), measure)
        outdated: dict[tuple[int, bool], Replay] = {}
        if stage != self._stage:
            # kept until the first of the new stage is recorded: a pool of memory that nothing uses is no more
            outdated, self._replays = self._replays, {}
            self._stage = stage
        if key in self._replays:
            return self._replays[key]
        self._update.prepare(steps)
        try:
            replay = self._recorder.record(self._update, len(steps), measure=measure)
        except RuntimeError as error:
            self._refuse(f"recording a step failed: {_first_cause(error)}")
            return None
        self._replays[key] = replay
        outdated.clear()
        if not self._reported:
            self._reported = True
            self._report({"mode": "captured", "why": "", "steps_per_replay": self._steps_per_replay})
        return replay

    def _refuse(self, why: str) -> None:
        self._refused, self.most = True, 1
        self._replays.clear()
        self._report(_eager_fact(why))


class GraphRecorder:
    """Records into CUDA graphs that share one pool of memory. Batches are drawn and outcomes kept on a stream beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, update: Update, slots: int, *, measure: bool) -> Replay:
        """Record; a failure leaves the random generators usable."""
        graph = _Graph(torch.empty(slots, 3, *update.members, device=self._device))
        streams = update.streams(slots)
        for generator in streams:
            graph.graph.register_generator_state(generator)
        try:
            # else what another thread asks of CUDA meanwhile, such as one that writes a checkpoint, would break the recording off
            with torch.cuda.graph(graph.graph, pool=self._pool, capture_error_mode="thread_local"):
                self._trace(update, graph.rows, measure=measure)
        except RuntimeError:
            for generator in (*streams, torch.cuda.default_generators[self._device.index]):
                # a generator whose capture broke off refuses to draw; a copy of its state does not
                generator.graphsafe_set_state(generator.clone_state())
            raise
        return graph

    @contextlib.contextmanager
    def watch(self) -> Iterator[Sequence[str]]:
        """Collect `file:line` of every operation that PyTorch reports as waiting for the device."""
        places: list[str] = []
        caught: list[tuple[Warning | str, type[Warning], str, int]] = []

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: Any = None,
            line: Any = None,
        ) -> None:
            del file, line
            caught.append((message, category, *asked_at(filename, lineno)))

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield places
            finally:
                torch.cuda.set_sync_debug_mode("default")
        for message, category, filename, lineno in caught:
            said = str(message)
            if "synchronizing CUDA operation" in said:
                places.append(f"{Path(filename).name}:{lineno}")
            elif "Synchronization debug mode" not in said:
                warnings.warn_explicit(message, category, filename, lineno)

    def _trace(self, update: Update, rows: Tensor, *, measure: bool) -> None:
        main = torch.cuda.current_stream(self._device)
        self._beside.wait_stream(main)
        batches, drawn, done = [], [], []
        with torch.cuda.stream(self._beside):
            for slot in range(len(rows)):
                batches.append(update.draw(slot))  # kept to the end: memory freed here would be drawn into at once
                drawn.append(self._beside.record_event())
        for slot, (batch, event) in enumerate(zip(batches, drawn, strict=True)):
            main.wait_event(event)
            done.append(update.compute(batch, slot, measure=measure and slot == len(rows) - 1))
            self._beside.wait_stream(main)
            with torch.cuda.stream(self._beside):  # the next step need not wait for this one's outcome
                rows[slot] = update.outcome(done[-1])
        main.wait_stream(self._beside)


class _Graph:
    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.graph = torch.cuda.CUDAGraph()

    def replay(self) -> None:
        self.graph.replay()


def build_stepper(
    update: Update, window: Window, train: TrainSpec, placement: Placement, sink: MetricSink, *, operations: float
) -> Stepper:
    """Return what carries an update through a run on a device: captured on CUDA unless something stands in the way.

    It notes `step` once, the mode and why; where CUDA is there and a step is eager all the same, also a warning.
    `operations` is about how many floating-point operations a step takes.

    Raises:
        CaptureError: `train.capture` is "on" and steps cannot be captured. It may also come out of an early step.
    """
    why = "train.capture is 'off'" if train.capture == "off" else ""
    if not why and placement.device.type != "cuda":
        why = f"graphs need CUDA, and the run is on {placement.device}"
    refusal = why or update.refusal()

    def report(fact: Mapping[str, JSON]) -> None:
        if fact["mode"] == "eager" and not why:
            if train.capture == "on":
                raise CaptureError(_on_but(str(fact["why"])))
            sink.note("warning", {"message": f"steps are not captured, which is slower: {fact['why']}"})
        sink.note("step", fact)

    if refusal:
        if train.capture == "on":
            raise CaptureError(_on_but(refusal))
        report(_eager_fact(refusal))
        return EagerStepper(update, window)
    return CapturedStepper(
        update,
        window,
        steps_per_replay=steps_per_replay(train.log_every, operations),
        recorder=GraphRecorder(placement.device),
        report=report,
    )


def steps_per_replay(log_every: int, operations: float) -> int:
    """Return how many steps a graph should hold: a divisor of `log_every` near 16 where there is one; 1 for large steps.

    In these there is nothing to win, and a stop would wait for all of them.
    """
    if operations > LARGE_STEP:
        return 1
    best = max(steps for steps in range(1, MOST_STEPS + 1) if log_every % steps == 0)
    return best if 4 * best >= min(log_every, MOST_STEPS) else MOST_STEPS // 2


def _eager_fact(why: str) -> Mapping[str, JSON]:
    return {"mode": "eager", "why": why, "steps_per_replay": 1}


def asked_at(filename: str, lineno: int) -> tuple[str, int]:
    """Return where the operation was asked for that a warning is about, for a call from within the warning.

    That is where Python says, unless the operation went through a `__torch_function__`: then it is that one's caller.
    """
    frames = traceback.extract_stack()
    at = next(
        (i for i in reversed(range(len(frames))) if (frames[i].filename, frames[i].lineno) == (filename, lineno)), None
    )
    if at is None:
        return filename, lineno
    torch_folder = str(Path(torch.__file__).parent)
    while at > 0 and (frames[at].name == "__torch_function__" or frames[at].filename.startswith(torch_folder)):
        at -= 1
    return frames[at].filename, frames[at].lineno or lineno


def _on_but(why: str) -> str:
    return f"train.capture is 'on', but steps cannot be captured: {why}. Use 'auto', which goes on eagerly then."


def _first_cause(error: BaseException) -> str:
    """Return the first line of what went wrong first: ending a broken capture raises again over it."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return (str(error).splitlines() or [type(error).__name__])[0]
