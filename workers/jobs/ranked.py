"""One of several processes that train a run together, as torchrun or Ray Train start them.

torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) tells each what it is, so an attempt can be run
by hand: `python -m torch.distributed.run --standalone --nproc-per-node 2 -m workers.jobs.worker ATTEMPT_DIR`. Rank 0 alone has
the attempt's spool and writes result.json.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from storage.home import AttemptPaths
from workers.jobs.attempt import EXIT_CODES, AttemptSpec, Outcome
from workers.jobs.sink import SpoolSink
from workers.jobs.worker import STOP_FILE, claim, hold_leash, outcome_of, run_attempt, stop_event

if TYPE_CHECKING:
    from workers.training.ranks import Ranks

LED = "MAMBALAB_LED"
"""Set in the environment of processes that a worker has started: it has claimed the attempt, and they end when it does."""


def among_ranks() -> bool:
    """Say whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def work_as_rank(attempt: AttemptSpec) -> int:
    """Be one of torchrun's processes for an attempt, from the process group to its end, and return the exit code."""
    stop = stop_event()
    if os.environ.get(LED):
        hold_leash([])
    elif os.environ["RANK"] == "0":
        claim(attempt)
    with joined(attempt.spec) as ranks:
        outcome = train_as_rank(attempt, ranks, stop.is_set)
    return EXIT_CODES[outcome.status]


def train_as_rank(attempt: AttemptSpec, ranks: Ranks, asked: Callable[[], bool]) -> Outcome:
    """Train as one of some ranks; rank 0 writes result.json. A file `stop` asks all of them to stop.

    Where it ends well all end together: whoever started them may kill the others once one is gone.
    """
    file = attempt.path / STOP_FILE

    def should_stop() -> bool:
        return asked() or (ranks.leads and file.exists())

    if ranks.leads:
        outcome = run_attempt(attempt, SpoolSink(AttemptPaths(attempt.path).spool), should_stop, ranks)
    else:
        from workers.training.context import MemorySink

        outcome = outcome_of(attempt, MemorySink(), should_stop, ranks)
    if outcome.traceback is not None:
        sys.stderr.write(f"rank {ranks.rank}: {outcome.traceback}")
    if outcome.status != "failed":
        ranks.any(False)
    return outcome


@contextlib.contextmanager
def joined(spec: Mapping[str, Any]) -> Iterator[Ranks]:
    """Make this process one of the group that the environment tells of, on the GPU of its local rank where the run has any."""
    import torch
    import torch.distributed as dist

    from workers.training.ranks import Ranks

    on_gpu = _uses_gpus(spec) and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(started_by="torchrun")
    finally:
        gc.collect()  # graphs that hold the group's sums must be gone before it
        dist.destroy_process_group()


def _uses_gpus(spec: Mapping[str, Any]) -> bool:
    """Say whether a run would take GPUs where there are any."""
    device, gpus = spec.get("train", {}).get("device", "auto"), spec.get("resources", {}).get("gpus", "auto")
    return bool(device != "cpu" and gpus != 0)
