"""`run_trial`: one attempt at one run, from its spec to its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.common import choice
from workers.errors import SpecError
from workers.models import LanguageModel, build_model
from workers.parallel import processes
from workers.specs import RunSpec
from workers.tasks import Task, build_task
from workers.training.checkpoint import CheckpointStore, check_identity
from workers.training.context import Reason, RunContext, RunResult
from workers.training.determinism import reproducible, restore_random_state, seed_global
from workers.training.errors import RunOutOfMemoryError, is_out_of_memory
from workers.training.extrapolation import task_at
from workers.training.facts import note_facts
from workers.training.loop import TrainingLoop, peak_memory_mb
from workers.training.optim import build_optimizer
from workers.training.precision import Placement, place
from workers.training.progress import Progress


def run_trial(spec: RunSpec, context: RunContext) -> RunResult:
    """Train and evaluate what a spec describes; go on from the newest whole checkpoint in the run's folder.

    On a CPU the metrics and the final parameters are the same, bit for bit, whether or not the run was interrupted,
    and whatever the process computed before. The process's own torch settings and random state are left as they were.

    Raises:
        SpecError, TaskError: the spec cannot be built.
        DeviceError: it asks for hardware that is not there.
        CheckpointError: a checkpoint cannot be written, or belongs to another spec.
        NonFiniteLossError: training diverged.
        RunOutOfMemoryError: the device or the host had too little memory.
    """
    placement = place(spec)
    if context.ranks is not None:
        context = context.ranks.of(context)
    try:
        with reproducible(placement):
            return _run(spec, context, placement)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunOutOfMemoryError(out_of_memory(spec, placement, error)) from error
    finally:
        context.sink.flush()


def _run(spec: RunSpec, context: RunContext, placement: Placement) -> RunResult:
    if placement.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(placement.device)
    choice.reset_used()
    trial = prepare(spec, context, placement)
    loop = TrainingLoop(
        spec,
        context,
        task=trial.task,
        model=trial.model,
        optimizer=trial.optimizer,
        placement=placement,
        store=trial.store,
        progress=trial.progress,
    )
    reason = loop.run()
    return trial.result(reason, loop.stages())


@dataclass(frozen=True, slots=True)
class PreparedTrial:
    """A run that is ready to train, from its first step or from its newest checkpoint."""

    context: RunContext
    task: Task
    model: LanguageModel
    optimizer: torch.optim.AdamW
    store: CheckpointStore
    progress: Progress
    resumed_from: int
    prepared: tuple[float, float]

    def result(self, reason: Reason, stages: Mapping[str, float]) -> RunResult:
        """Return how the run ended; its progress is now that of the end. Notes what its seconds went into (`stages`).

        `start` is from the start of the process, where it is the run's own, to the preparation: Python, imports and CUDA.
        """
        began, ended = self.prepared
        seconds = {"preparation": ended - began, **stages}
        if self.context.began is not None:
            seconds = {"start": began - self.context.began, **seconds, "whole": time.time() - self.context.began}
        self.context.sink.note("stages", {name: round(value, 3) for name, value in seconds.items()})
        directory, progress = self.context.directory, self.progress
        return RunResult(
            status="stopped" if reason == "stopped" else "completed",
            reason=reason,
            step=progress.step,
            metrics=dict(progress.latest),
            resumed_from=self.resumed_from,
            train_seconds=progress.train_seconds,
            checkpoint=_relative(directory / "checkpoints" / f"step-{progress.step:06d}", directory),
        )


def prepare(spec: RunSpec, context: RunContext, placement: Placement) -> PreparedTrial:
    """Build what a run trains, put it into the state of its newest checkpoint, and note the facts. Raises as `run_trial`."""
    began = time.time()
    task = build_task(spec.task)
    for length in spec.train.eval_lengths:
        build_task(task_at(spec.task, length))  # what cannot be evaluated should come to light before the training
    seed_global(spec.seed, "init")
    model = build_model(spec.model, task.vocab_size).to(placement.device)
    optimizer = build_optimizer(model, spec.train)
    seed_global(spec.seed, "dropout")
    store = CheckpointStore(
        context.directory / "checkpoints",
        keep=spec.train.keep_checkpoints,
        report=lambda sentence: context.sink.note("warning", {"message": sentence}),
    )
    progress = _resume(spec, context, store, model, optimizer, placement)
    _check_ranks(spec, context, progress.step)
    note_facts(context.sink, task, model, placement)
    return PreparedTrial(context, task, model, optimizer, store, progress, progress.step, (began, time.time()))


def _check_ranks(spec: RunSpec, context: RunContext, step: int) -> None:
    """Note how many processes train the run, and refuse to go on where they are not those that it asks for.

    Raises:
        SpecError: there are several, but of another number.
        CheckpointError: they have not all resumed from the same checkpoint.
    """
    asked = processes(spec.model_dump(mode="json", include={"train", "resources"}))
    ranks = context.ranks
    if ranks is not None:
        if ranks.size != asked:
            raise SpecError(
                f"{ranks.size} processes were started for a run that {asked} are to train (train.data_parallel, else "
                "resources.gpus). Start as many, or change the spec."
            )
        ranks.check_resumed(step)
        context.sink.note("data_parallel", ranks.facts())
    elif asked > 1:
        why = f"{asked} processes were to share each batch, and this one was started alone: it computes all of it"
        context.sink.note("data_parallel", {"processes": 1, "why": why})
        context.sink.note("warning", {"message": why})


def _resume(
    spec: RunSpec,
    context: RunContext,
    store: CheckpointStore,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    placement: Placement,
) -> Progress:
    if context.ranks is None or context.ranks.leads:
        store.remove_leftovers()
    checkpoint = store.newest()
    if checkpoint is None:
        return Progress()
    if not context.accept_other_spec:
        check_identity(checkpoint, spec)
    checkpoint.load(model, optimizer)
    restore_random_state(checkpoint.state["random"], placement.device)
    context.sink.note("resume", {"step": checkpoint.step, "path": _relative(checkpoint.folder, context.directory)})
    return Progress.from_json(checkpoint.step, checkpoint.state["progress"])


def _relative(path: Path, directory: Path) -> str | None:
    return path.relative_to(directory).as_posix() if path.is_dir() else None


def out_of_memory(spec: RunSpec, placement: Placement, error: BaseException) -> str:
    """Return what to tell of a failed allocation, and what to do about it."""
    train = spec.train
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"out of memory on {placement.device} (peak {peak_memory_mb(placement.device):,.0f} MiB) with train.batch_size "
        f"{train.batch_size}, train.accumulate {train.accumulate}, train.eval_batch_size "
        f"{train.eval_batch_size or train.batch_size}. Raise train.accumulate, lower the others or model.d_model, or give "
        f"the run a whole GPU (resources.gpus = 1.0). The allocator said: {said}"
    )
