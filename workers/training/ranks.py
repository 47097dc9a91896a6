"""Processes that train one run together, each on its share of every batch (data parallel).

Whoever starts them, torchrun or Ray Train, makes the process group; training is handed what it needs of it. Rank 0 alone
reports and saves. Each rank draws the whole batch of a step, which depends on the seed and the step alone, and computes its
rows; gradients are added up by PyTorch's DistributedDataParallel, so that a step is that of one process at the same batch but
for the order of sums. Ranks go through the same turns in step: whatever one of them alone knows (that it is asked to stop)
all of them agree on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from workers.errors import CheckpointError
from workers.tasks import Batch
from workers.training.context import JSON, RunContext


class Ranks:
    """This process among those of PyTorch's default process group, which exists already.

    Args:
        control: a group for numbers on the host, which no step waits for; made here by default, by all ranks at once.
    """

    def __init__(self, control: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.backend = str(dist.get_backend())
        self._control = control or dist.new_group(backend="gloo")

    @property
    def leads(self) -> bool:
        """Whether this is the one that reports and saves."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on some rank."""
        flags = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._control)
        return bool(flags.item())

    def same(self, number: int) -> bool:
        """Return whether all ranks have the same number."""
        bounds = torch.tensor([number, -number])
        dist.all_reduce(bounds, dist.ReduceOp.MAX, group=self._control)
        return bool(bounds[0] == -bounds[1])

    def add_up(self, tensor: Tensor) -> None:
        """Put the sum of all ranks' tensors in place of each; on a GPU nothing waits for it."""
        dist.all_reduce(tensor)

    def share(self, batch: Batch) -> Batch:
        """Return this rank's rows of a batch."""
        return batch.cut(self.size)[self.rank]

    def parallel(self, objective: nn.Module, device: torch.device) -> DistributedDataParallel:
        """Return a module whose gradients are the mean of all ranks' at the end of each backward."""
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            objective, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def facts(self) -> dict[str, JSON]:
        """Return what the record keeps."""
        return {"processes": self.size, "backend": self.backend}

    def of(self, context: RunContext) -> RunContext:
        """Return a context in which all stop where one is asked to, and rank 0 alone reports."""
        own = context.should_stop
        return replace(
            context, sink=context.sink if self.leads else _Silent(), should_stop=lambda: self.any(own()), ranks=self
        )

    def check_resumed(self, step: int) -> None:
        """Let all go on only where all have resumed alike; from here on rank 0 may write into the run's folder.

        Raises:
            CheckpointError: they have not.
        """
        if not self.same(step):
            raise CheckpointError(
                f"rank {self.rank} of {self.size} found the checkpoint of step {step}, and another rank another one: the "
                "run's folder must be the same for all of them."
            )


def without_sync(objective: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Hold for a micro-batch that is not the step's last: gradients are added up over ranks once a step."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else contextlib.nullcontext()


class _Silent:
    """Takes what ranks beside the first would report."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def note(self, kind: str, payload: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...
