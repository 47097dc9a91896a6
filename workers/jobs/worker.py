"""The worker: one process, one attempt. `python -m workers.jobs.worker ATTEMPT_DIR` reads the folder's spec.json.

It reports to spool.jsonl as it goes and leaves result.json as its last word. SIGTERM asks it to stop: it saves a
checkpoint and exits with `WorkerExit.STOPPED`. It knows neither Ray nor the store, but for a run that several processes
train: then it starts these and waits (workers.jobs.team).

A worker on a leash has a pipe on stdin that its supervisor holds open. When the supervisor vanishes the pipe closes,
and the worker ends at once: its run may already be at work elsewhere. (PR_SET_PDEATHSIG would not do: it is tied to the
parent's *thread*, and supervisors start workers from threads that come and go.)
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from storage.home import AttemptPaths
from workers.errors import CheckpointError, SpecError, TaskError
from workers.jobs.attempt import TRIAL, AttemptSpec, Outcome, WorkerExit
from workers.jobs.errors import ExecutorError, SpoolError, SpoolTakenError
from workers.jobs.files import read_json, write_json
from workers.jobs.process import ProcessId
from workers.jobs.sink import SpoolSink
from workers.jobs.system import sampling
from workers.parallel import processes

if TYPE_CHECKING:
    from workers.specs import RunSpec
    from workers.training.context import MetricSink, RunContext, RunResult
    from workers.training.ranks import Ranks

    Trial = Callable[[RunSpec, RunContext], RunResult]

IDENTITY_FILE = "worker.json"
LAUNCH_FILE = "launched.json"  # by whoever started the worker: it may die before the worker can say anything
STOP_FILE = "stop"  # asks one attempt of an ensemble to stop, where a signal would ask them all


def main(arguments: list[str]) -> int:
    """Run the attempt in the folder that the one argument names, and return the process's exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m workers.jobs.worker ATTEMPT_DIR\n")
        return 2
    paths = AttemptPaths(Path(arguments[0]).absolute())
    tree = read_json(paths.spec)
    if tree is None:
        sys.stderr.write(f"{paths.spec}: expected the attempt's spec as a JSON object; the controller writes it.\n")
        return 2
    attempt = AttemptSpec.from_json(tree)
    if attempt.members:
        from workers.jobs.packed import work_together

        return work_together(attempt)
    from workers.jobs import ranked

    if ranked.among_ranks():
        return ranked.work_as_rank(attempt)
    if processes(attempt.spec) > 1:
        from workers.jobs.team import lead

        return lead(attempt)
    return work(attempt)


def work(attempt: AttemptSpec) -> int:
    """Run an attempt as the whole business of this process: signals, leash and exit code are set up here."""
    stop = stop_event()
    # The trial's imports take seconds: the first heartbeat must not wait for them
    try:
        sink = SpoolSink(AttemptPaths(attempt.path).spool)
    except SpoolTakenError as error:
        sys.stderr.write(f"{error}\n")
        return WorkerExit.DUPLICATE
    claim(attempt)
    if attempt.leash:
        hold_leash([sink])
    outcome = run_attempt(attempt, sink, stop.is_set)
    if outcome.traceback is not None:
        sys.stderr.write(outcome.traceback)
    if outcome.status == "failed":
        return WorkerExit.FAILED
    return WorkerExit.COMPLETED if outcome.status == "completed" else WorkerExit.STOPPED


def stop_event() -> threading.Event:
    """Return what SIGTERM and SIGINT set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def hold_leash(sinks: Sequence[SpoolSink]) -> None:
    """End this process when stdin closes, once the sinks are flushed."""
    threading.Thread(target=_end_with_supervisor, args=(sinks,), name="leash", daemon=True).start()


def run_attempt(
    attempt: AttemptSpec, sink: SpoolSink, should_stop: Callable[[], bool], ranks: Ranks | None = None
) -> Outcome:
    """Run an attempt in this process, write its result.json, and return what that says. Closes the sink."""
    with sampling(attempt, sink):
        outcome = outcome_of(attempt, sink, should_stop, ranks)
    try:
        sink.close()
    except SpoolError as error:
        if outcome.status != "failed":
            outcome = failure(error)
    write_json(AttemptPaths(attempt.path).result, outcome.to_json())
    return outcome


def claim(attempt: AttemptSpec) -> None:
    """Record which process works on the attempt."""
    identity = ProcessId.of(os.getpid())
    if identity is None:
        raise ExecutorError(f"the system does not show process {os.getpid()}, this one, in its list of processes")
    write_json(attempt.path / IDENTITY_FILE, identity.to_json())


def claimed_by(directory: Path) -> ProcessId | None:
    """Return the process that works or worked on the attempt in a folder, or None before there was one."""
    tree = read_json(directory / IDENTITY_FILE)
    return None if tree is None else ProcessId.from_json(tree)


def began_at(attempt: AttemptSpec) -> float | None:
    """Return when this process began, where it is the attempt's own."""
    claimed = claimed_by(attempt.path)
    return claimed.created if claimed is not None and claimed.pid == os.getpid() else None


def worker_of(directory: Path) -> ProcessId | None:
    """Return the process that claimed the attempt in a folder, else the one last started for it, else None."""
    claimed = claimed_by(directory)
    if claimed is not None:
        return claimed
    tree = read_json(directory / LAUNCH_FILE)
    return None if tree is None else ProcessId.from_json(tree)


def load_trial(name: str) -> Trial:
    """Return the function that `module:name` names, a trial.

    Raises:
        SpecError: no such module or function.
    """
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and not module.startswith(error.name):
            raise  # the module is there; something that it imports is not
        raise SpecError(f"trial {name!r}: {error}. Expected module:function, such as {TRIAL}.") from error
    if not colon or not callable(found):
        raise SpecError(f"trial {name!r}: expected module:function, such as {TRIAL}.")
    return cast("Trial", found)


def outcome_of(
    attempt: AttemptSpec, sink: MetricSink, should_stop: Callable[[], bool], ranks: Ranks | None = None
) -> Outcome:
    """Run an attempt's trial, whatever comes of it."""
    try:
        trial = load_trial(attempt.trial)
        from workers.specs import RunSpec
        from workers.training.context import RunContext

        spec = RunSpec.model_validate(attempt.spec, strict=False)
        limit_gpu_memory(attempt.gpus)
        directory = Path(attempt.run_directory)
        context = RunContext(
            attempt.run_id, attempt.number, directory, sink, should_stop, ranks=ranks, began=began_at(attempt)
        )
        return to_outcome(trial(spec, context))
    except Exception as error:  # noqa: BLE001 - whatever a trial raises is the run's result, not this process's failure
        return failure(error)


def to_outcome(result: RunResult) -> Outcome:
    """Return a trial's result as result.json tells it."""
    return Outcome(
        status=result.status,
        reason=result.reason,
        step=result.step,
        metrics={key: value if value - value == 0 else str(value) for key, value in result.metrics.items()},
        resumed_from=result.resumed_from,
        train_seconds=result.train_seconds,
        checkpoint=result.checkpoint,
    )


def failure(error: BaseException) -> Outcome:
    """Return the outcome of an attempt that raised: error code, one line, traceback."""
    lines = traceback.format_exception_only(error)
    return Outcome(
        status="failed",
        reason=_code(error),
        step=int(getattr(error, "step", 0)),
        error=lines[0].strip()[:500],
        traceback="".join(traceback.format_exception(error)),
    )


def _code(error: BaseException) -> str:
    """Return training's own code for an error, without importing torch where no training was ever imported."""
    training: Any = sys.modules.get("workers.training.errors")
    if training is not None:
        return str(training.error_code(error))
    if isinstance(error, CheckpointError):
        return "checkpoint"
    if isinstance(error, SpecError | TaskError):
        return "spec"
    return "oom" if isinstance(error, MemoryError) else "error"


def limit_gpu_memory(gpus: float) -> None:
    """Hold a run that shares a GPU to its share of the memory: Ray and CUDA separate devices, not memory."""
    torch = sys.modules.get("torch")
    if torch is not None and 0 < gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus)


def _end_with_supervisor(sinks: Sequence[SpoolSink]) -> None:
    while os.read(0, 4096):
        pass
    for sink in sinks:
        try:
            sink.flush()
        except SpoolError as error:
            sys.stderr.write(f"{error}\n")
    sys.stderr.write("the supervisor vanished: this worker ends, as its run may be at work elsewhere\n")
    os._exit(WorkerExit.ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
