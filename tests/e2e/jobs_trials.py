"""Trials that take the place of training where only the jobs room is tested: they run in real workers, without torch.

`train.warmup_steps` names a step before which the trial waits for a file `go` in the run's folder, so that a test can
act in the middle of a run without guessing how long anything takes. `train.stop_metric` names the trial: `named` runs
it, so that one controller serves tests of all of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

if "workers.training" not in sys.modules and "torch" not in sys.modules:
    # The package's own __init__ imports torch, which these trials do without: a second or more a worker
    package = types.ModuleType("workers.training")
    found = find_spec("workers")
    assert found is not None
    assert found.submodule_search_locations is not None
    package.__path__ = [str(Path(folder) / "training") for folder in found.submodule_search_locations]
    sys.modules["workers.training"] = package

from workers.specs import RunSpec
from workers.training.context import RunContext, RunResult


def loss(step: int, seed: int) -> float:
    """Return what `count` logs at a step: a function of step and seed alone, so that a doubled or lost row shows."""
    return seed + 1 / step


def named(spec: RunSpec, context: RunContext) -> RunResult:
    """Run the trial that `train.stop_metric` names."""
    trials = {trial.__name__: trial for trial in (count, explode, breathless, stubborn, hungry, real)}
    return trials[spec.train.stop_metric](spec, context)


def together(specs: Sequence[RunSpec], contexts: Sequence[RunContext], *, ended: Callable[[int, object], None]) -> None:
    """Run the trials of an ensemble, each in a thread."""

    def run(index: int) -> None:
        context = contexts[index]
        context.sink.note("ensemble", {"members": [one.run_id for one in contexts], "index": index})
        try:
            ended(index, named(specs[index], context))
        except Exception as error:  # noqa: BLE001 - as training does: what one fails with is its own
            ended(index, error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(specs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def real(spec: RunSpec, context: RunContext) -> RunResult:
    """Train for real."""
    del sys.modules["workers.training"]  # the stand-in above
    from workers.training.trial import run_trial

    return run_trial(spec, context)


def count(spec: RunSpec, context: RunContext) -> RunResult:
    """Count to `train.steps`, logging each step, saving each `checkpoint_every`, and go on from the newest save."""
    start = newest(context.directory)
    seen = {"threads": os.environ["OMP_NUM_THREADS"], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "not said")}
    context.sink.note("hardware", {"device": "none", "pid": os.getpid(), **seen})
    if start:
        context.sink.note("resume", {"step": start, "path": f"checkpoints/step-{start:06d}"})
    step = start
    while step < spec.train.steps:
        gate = spec.train.warmup_steps
        while step + 1 == gate and not (context.directory / "go").exists() and not context.should_stop():
            time.sleep(0.005)
        if context.should_stop():
            break
        step += 1
        context.sink.log(step, {"train/loss": loss(step, spec.seed), "train/twice": 2.0 * step})
        if spec.train.checkpoint_every and step % spec.train.checkpoint_every == 0:
            save(context, step)
    save(context, step)
    stopped = step < spec.train.steps
    return RunResult(
        "stopped" if stopped else "completed",
        "stopped" if stopped else "steps",
        step,
        {"train/loss": loss(step, spec.seed) if step else 0.0},
        start,
        0.0,
        f"checkpoints/step-{step:06d}",
    )


def explode(spec: RunSpec, context: RunContext) -> RunResult:
    """Raise after one step where the seed is 1, else count."""
    if spec.seed != 1:
        return count(spec, context)
    context.sink.log(1, {"train/loss": 1.0})
    raise ZeroDivisionError("one over nothing")


def breathless(spec: RunSpec, context: RunContext) -> RunResult:
    """Stop this whole process at the first attempt, so that not even a heartbeat comes; count at the second."""
    if context.attempt == 1:
        context.sink.log(1, {"train/loss": 1.0})
        context.sink.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
    return count(spec, context)


def stubborn(spec: RunSpec, context: RunContext) -> RunResult:
    """Never heed a request to stop."""
    context.sink.log(1, {"train/loss": 1.0})
    while not (context.directory / "go").exists():
        time.sleep(0.01)
    return count(spec, context)


def hungry(spec: RunSpec, context: RunContext) -> RunResult:
    """Run out of memory."""
    raise MemoryError("no room for 3 GiB")


def save(context: RunContext, step: int) -> None:
    """Write a checkpoint aside, rename it once every row up to it is on disk, as training does, and report it."""
    folder = context.directory / "checkpoints" / f"step-{step:06d}"
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    (temporary / "state.json").write_text(json.dumps({"step": step}))
    context.sink.flush()
    temporary.rename(folder)
    context.sink.note("checkpoint", {"step": step, "path": f"checkpoints/{folder.name}"})
    context.sink.flush()


def newest(directory: Path) -> int:
    """Return the step of the newest checkpoint; 0 for none."""
    return max((int(path.name.removeprefix("step-")) for path in directory.glob("checkpoints/step-*")), default=0)
