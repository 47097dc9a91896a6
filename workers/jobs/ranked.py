"""One of several processes that train a run together, as torchrun or Ray Train start them.

torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) tells each what it is, so an attempt can be run
by hand: `python -m torch.distributed.run --standalone --nproc-per-node 2 -m workers.jobs.worker ATTEMPT_DIR`. Rank 0 is the
attempt's worker: it alone has the spool and writes result.json.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from storage.home import AttemptPaths
from workers.jobs.attempt import EXIT_CODES, AttemptSpec, Outcome, WorkerExit
from workers.jobs.errors import SpoolTakenError
from workers.jobs.sink import SpoolSink
from workers.jobs.worker import STOP_FILE, claim, hold_leash, outcome_of, run_attempt, stop_event

if TYPE_CHECKING:
    from workers.training.ranks import Ranks


def among_ranks() -> bool:
    """Say whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def work_as_rank(attempt: AttemptSpec) -> int:
    """Be one of an attempt's processes, from its process group to its end, and return the exit code."""
    stop = stop_event()
    leads = os.environ["RANK"] == "0"
    sink = None
    if leads:
        try:
            sink = SpoolSink(
                AttemptPaths(attempt.path).spool
            )  # the imports take seconds: the first heartbeat must not wait
        except SpoolTakenError as error:
            sys.stderr.write(f"{error}\n")
            return WorkerExit.DUPLICATE
        claim(attempt)
        if attempt.leash:
            hold_leash([sink])
    with joined(attempt.spec) as ranks:
        outcome = work_with(attempt, ranks, sink, stop.is_set)
    return EXIT_CODES[outcome.status]


def work_with(attempt: AttemptSpec, ranks: Ranks, sink: SpoolSink | None, asked: Callable[[], bool]) -> Outcome:
    """Train as one of some ranks; rank 0, which has the sink, writes result.json. A file `stop` asks all of them to stop."""
    file = attempt.path / STOP_FILE

    def should_stop() -> bool:
        return asked() or (ranks.leads and file.exists())

    if sink is not None:
        outcome = run_attempt(attempt, sink, should_stop, ranks)
    else:
        from workers.training.context import MemorySink

        outcome = outcome_of(attempt, MemorySink(), should_stop, ranks)
    if outcome.traceback is not None:
        sys.stderr.write(f"rank {ranks.rank}: {outcome.traceback}")
    return outcome


@contextlib.contextmanager
def joined(spec: Any) -> Iterator[Ranks]:
    """Make this process one of the group that the environment tells of, on the GPU of its local rank where the run has any."""
    import torch
    import torch.distributed as dist

    from workers.training.ranks import Ranks

    on_gpu = uses_gpus(spec) and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks()
    finally:
        gc.collect()  # graphs that hold the group's sums must be gone before it
        dist.destroy_process_group()


def uses_gpus(spec: Any) -> bool:
    """Say whether a run would take GPUs where there are any."""
    device, gpus = spec.get("train", {}).get("device", "auto"), spec.get("resources", {}).get("gpus", "auto")
    return bool(device != "cpu" and gpus != 0)
