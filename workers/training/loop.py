"""The training loop: update, log, evaluate, save, stop; in the end, evaluate at other lengths where that is asked for.

Somewhat longer than other modules, since all of it turns on one progress.

The host never waits for the device inside a step: losses and gradient norms gather on the device (`Window`) and are
read every `log_every` steps. A row is logged after step 1 (it shows at once that the run lives, and keeps first-use
costs out of later rates), after every multiple of `log_every`, and after the last step.

| metric | meaning |
| --- | --- |
| `train/loss`, `train/grad_norm` | mean over the steps since the last row; the norm is the one before clipping |
| `train/accuracy` | share of supervised positions predicted right in the row's own batch |
| `train/lr` | the schedule's rate at the row's step |
| `train/steps_per_s`, `train/tokens_per_s` | since the last row, without evaluation and checkpoints |
| `train/tokens_seen` | step x batch_size x seqlen |
| `valid/accuracy@L`, `valid/loss@L` | at another length L (`train.eval_lengths`), once training has ended |
| `probe/...@L` | what goes on inside layer L (`train.probe_every`): workers.training.probes |
| `system/peak_memory_mb` | CUDA: most memory held by tensors; CPU: most resident memory of the process |
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from kernels.common import choice
from workers.errors import SpecError
from workers.models import LanguageModel
from workers.specs import RunSpec
from workers.tasks import Task
from workers.training.captured import build_stepper
from workers.training.checkpoint import Checkpoint, CheckpointStore
from workers.training.clock import StepClock
from workers.training.context import Reason, RunContext
from workers.training.determinism import capture_random_state
from workers.training.errors import NonFiniteLossError
from workers.training.evaluation import HeldOutStream, evaluate
from workers.training.extrapolation import Examiner, HeldOut, LengthRow, refusal
from workers.training.precision import Placement
from workers.training.probes import Probes
from workers.training.progress import Progress
from workers.training.readers import ModelReader
from workers.training.saving import Saver, saves_beside
from workers.training.schedule import learning_rate
from workers.training.update import RunUpdate, Stepper
from workers.training.window import Reading, Window

_FALLING = ("loss", "bpb", "perplexity", "error")  # metrics that get better by falling, by how their names end


@dataclass(frozen=True, slots=True)
class _Row:
    """A row to log: its step, the steps since the row before it, and what they measured."""

    step: int
    steps: int
    reading: Reading


class TrainingLoop:
    """One attempt's pass over the steps that remain. `run` is called once."""

    def __init__(
        self,
        spec: RunSpec,
        context: RunContext,
        *,
        task: Task,
        model: LanguageModel,
        optimizer: torch.optim.AdamW,
        placement: Placement,
        store: CheckpointStore,
        progress: Progress,
    ) -> None:
        self.spec, self.context, self.task, self.model = spec, context, task, model
        self.optimizer, self.placement, self.store, self.progress = optimizer, placement, store, progress
        self.checkpoint_step = progress.step
        beside = saves_beside(spec.train, placement)
        leads = context.ranks is None or context.ranks.leads
        self._saver = Saver(store, spec, beside=beside, whole=self._note_checkpoint, leads=leads)
        self._window = Window(spec.train.log_every, placement.device, losses=progress.losses, norms=progress.norms)
        self._row: _Row | None = None
        self._cut_at = progress.step
        self._clock = StepClock(placement)
        self._seconds_before = progress.train_seconds
        self._noted_implementation = False
        self._probes = Probes(model, task, spec.train, placement)
        self._held_out: HeldOutStream | None = None

    def run(self) -> Reason:
        """Train until the last step, `stop_at`, or a stop asked for; the state on disk is then that of the last step.

        Raises:
            NonFiniteLossError: a loss or a gradient norm was not finite; it is logged as NaN first.
            CheckpointError: a checkpoint cannot be written.
            SpecError: `stop_metric` is not one that the task measures.
            CaptureError: `train.capture` is "on" and the steps cannot be captured.
        """
        stepper, turns = self._stepper(), self.turns()
        try:
            wanted = next(turns)
            while True:
                steps = wanted[: stepper.most]
                stepper.advance(steps, measure=self.logs(steps[-1]))
                wanted = turns.send(len(steps))
        except StopIteration as end:
            reason: Reason = end.value
            return reason
        finally:
            turns.close()

    def turns(self) -> Generator[range, int, Reason]:
        """Yield the steps that may be done next, and go on when sent how many of them, one or more, were done.

        This is all that the host does between steps. `run` drives it with its own stepper; whoever trains several runs at
        once drives one for each. Returns and raises as `run`.
        """
        try:
            return (yield from self._turns())
        finally:
            self._saver.close()

    def _turns(self) -> Generator[range, int, Reason]:
        train, progress = self.spec.train, self.progress
        self.model.train()
        if train.probe_every:
            self.context.sink.note("probes", self._probes.facts())
        reason = self._evaluate_if_due()
        while reason is None and progress.step < train.steps:
            if self.context.should_stop():
                reason = "stopped"
                break
            first = progress.step + 1
            done = yield range(first, self._boundary(first) + 1)
            self._take_note(done)
            self._saver.look()
            self._probe_if_due()
            reason = self._evaluate_if_due()
            if reason is None and train.checkpoint_every and progress.step % train.checkpoint_every == 0:
                self.save()
        self.save()
        if reason != "stopped" and not self._evaluate_lengths():
            reason = "stopped"
        with self._clock.paused("checkpoints"):
            self._saver.wait()
        return reason or "steps"

    def stages(self) -> dict[str, float]:
        """Return the seconds of this attempt by what they went into, all of an ensemble's members together."""
        return {"training": self.progress.train_seconds - self._seconds_before, **self._clock.beside}

    def logs(self, step: int) -> bool:
        """Say whether a row is logged after a step, so that its accuracy is to be measured."""
        return step == 1 or step % self.spec.train.log_every == 0 or step == self.spec.train.steps

    def save(self) -> None:
        """Save a checkpoint of the current step, unless there is one. Never saves a state that has diverged.

        Every row up to its step is on disk before the checkpoint is: a resumed run goes on behind these rows.
        """
        progress = self.progress
        self._finish_row()
        if progress.step == self.checkpoint_step:
            return
        progress.losses, progress.norms = self._read_window()
        progress.train_seconds = self._seconds_before + self._clock.total()
        with self._clock.paused("checkpoints"):
            self.context.sink.flush()
            state = {"random": capture_random_state(self.placement.device), "progress": progress.to_json()}
            self._saver.save(progress.step, self.model, self.optimizer, state)
            self.checkpoint_step = progress.step

    def _note_checkpoint(self, saved: Checkpoint) -> None:
        path = saved.folder.relative_to(self.context.directory).as_posix()
        self.context.sink.note("checkpoint", {"step": saved.step, "path": path})
        self.context.sink.flush()

    def _stepper(self) -> Stepper:
        spec, placement = self.spec, self.placement
        update = RunUpdate(
            spec,
            task=self.task,
            model=self.model,
            optimizer=self.optimizer,
            placement=placement,
            ranks=self.context.ranks,
        )
        self.context.sink.note("memory", update.facts())
        self.context.sink.note("checkpoints", {"asynchronous": saves_beside(spec.train, placement)})
        # ranks take steps one by one: whether another one records them as well is not known here
        operations = update.operations if self.context.ranks is None else math.inf
        return build_stepper(update, self._window, spec.train, placement, self.context.sink, operations=operations)

    def _take_note(self, steps: int) -> None:
        """Take note of steps that were asked for, and cut a row where one is due.

        On CUDA the device works on: the row is logged once the next steps have been asked for, so that it never idles.
        """
        progress = self.progress
        progress.step += steps
        self._finish_row()
        if self.logs(progress.step):
            self._row = _Row(progress.step, progress.step - self._cut_at, self._window.cut())
            self._cut_at = progress.step
            if self.placement.device.type != "cuda" or progress.step == 1:
                self._finish_row()
        if not self._noted_implementation:
            self._noted_implementation = True
            self.context.sink.note("implementation", {op: list(names) for op, names in choice.used().items()})
            if choice.layouts():
                self.context.sink.note("layout", choice.layouts())

    def _boundary(self, first: int) -> int:
        """Return the next step, from `first` on, behind which the loop has something to do."""
        train = self.spec.train
        if first == 1:
            return 1
        every = [n for n in (train.log_every, train.eval_every, train.checkpoint_every, train.probe_every) if n]
        return min(train.steps, *(-(-first // n) * n for n in every))

    def _finish_row(self) -> None:
        """Log the row that was cut, if any, once the device has done its steps."""
        if self._row is None:
            return
        row, self._row = self._row, None
        losses, norms, accuracy = row.reading.wait()
        self._check(losses, norms, row.step)
        rate = self._clock.lap(row.steps)
        tokens = self.spec.train.batch_size * self.task.seqlen
        metrics = {
            "train/loss": math.fsum(losses) / len(losses),
            "train/accuracy": accuracy,
            "train/grad_norm": math.fsum(norms) / len(norms),
            "train/lr": learning_rate(self.spec.train, row.step),
            "train/steps_per_s": rate,
            "train/tokens_per_s": rate * tokens,
            "train/tokens_seen": float(row.step * tokens),
            "system/peak_memory_mb": peak_memory_mb(self.placement.device),
        }
        self.progress.latest.update(metrics)
        self.context.sink.log(row.step, metrics)

    def _read_window(self) -> tuple[list[float], list[float]]:
        """Log what is due and return the losses and norms since then, all of them finite."""
        self._finish_row()
        losses, norms = self._window.read()
        self._check(losses, norms, self.progress.step)
        return losses, norms

    def _check(self, losses: list[float], norms: list[float], last: int) -> None:
        """Raise where one of the numbers of the steps up to `last` is not finite."""
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=last - len(losses) + 1):
            if not math.isfinite(loss):
                self._diverged(step, "the loss", loss)
            if not math.isfinite(norm):
                self._diverged(step, "the gradient norm", norm)
            self.progress.last_finite = loss

    def _diverged(self, step: int, what: str, value: float) -> NoReturn:
        lr = learning_rate(self.spec.train, step)
        self.context.sink.log(step, {"train/loss": math.nan, "train/lr": lr})
        self.context.sink.flush()
        raise NonFiniteLossError(step=step, lr=lr, what=what, value=value, last_finite=self.progress.last_finite)

    def _probe_if_due(self) -> None:
        """Look inside the layers where this step asks for it."""
        step = self.progress.step
        if not self._probes.due(step):
            return
        self._finish_row()
        with self._clock.paused("probes"):
            self.context.sink.log(step, self._probes.measure())

    def _evaluate_if_due(self) -> Reason | None:
        """Evaluate where this step asks for it and it is not yet done; say so where the run should end here."""
        train, progress = self.spec.train, self.progress
        step = progress.step
        due = step == train.steps or (train.eval_every > 0 and step > 0 and step % train.eval_every == 0)
        if due and progress.evaluated_step != step:
            self._read_window()  # a diverged model is not worth evaluating
            with self._clock.paused("evaluation"):
                metrics = self._measure()
            if metrics is None:
                return "stopped"
            progress.evaluated_step = step
            progress.latest.update(metrics)
            self.context.sink.log(step, metrics)
        return "stop_at" if progress.evaluated_step == step > 0 and self._reached() else None

    def _measure(self) -> dict[str, float] | None:
        """Return the metrics on the held-out stream, or None where a stop came in between."""
        train, stop = self.spec.train, self.context.should_stop
        if self._held_out is None:
            self._held_out = HeldOutStream(self.task, self.model.spec, train, self.placement)
        return evaluate(self.model, self.task, train, self.placement, should_stop=stop, stream=self._held_out)

    def _evaluate_lengths(self) -> bool:
        """Evaluate at the `eval_lengths` that this step lacks, and save; say whether that came to its end.

        It happens behind the last checkpoint, which is then written anew: a kill in the midst of it costs no training,
        and a completed run that is started again has nothing left to do.
        """
        progress, train = self.progress, self.spec.train
        if progress.lengths_step != progress.step:
            progress.latest = {key: value for key, value in progress.latest.items() if "@" not in key}
        lacking = [length for length in train.eval_lengths if f"valid/accuracy@{length}" not in progress.latest]
        refused = {length: why for length in lacking if (why := refusal(self.model.spec, length))}
        for why in refused.values():
            self.context.sink.note("warning", {"message": f"train.eval_lengths: {why}"})
        possible = [length for length in lacking if length not in refused]
        done = 0
        with self._clock.paused("lengths"):
            for row in self._rows_at(possible):
                metrics = {f"valid/{name}@{row.length}": row.metrics[f"valid/{name}"] for name in ("accuracy", "loss")}
                progress.latest.update(metrics)
                self.context.sink.log(progress.step, metrics)
                done += 1
        if done:
            progress.lengths_step, self.checkpoint_step = progress.step, 0
            self.save()
        return done == len(possible)

    def _rows_at(self, lengths: Sequence[int]) -> Iterator[LengthRow]:
        """Yield what is found at each length; end early where a stop came in between."""
        reader, held_out = ModelReader(self.model, self.placement), HeldOut.of(self.spec.train)
        examiner = Examiner(reader, self.spec.task, held_out)
        yield from examiner.rows(lengths, self.context.should_stop)

    def _reached(self) -> bool:
        goal, name = self.spec.train.stop_at, self.spec.train.stop_metric
        if goal is None:
            return False
        if name not in self.progress.latest:
            known = ", ".join(sorted(key for key in self.progress.latest if key.startswith("valid/")))
            raise SpecError(f"train.stop_metric is {name!r}, which this task does not measure. It measures: {known}.")
        value = self.progress.latest[name]
        return value <= goal if name.endswith(_FALLING) else value >= goal


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: of this attempt's tensors on CUDA, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB
