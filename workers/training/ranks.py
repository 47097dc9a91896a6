"""Processes that train one run together, each on its share of every batch (data parallel).

Whoever starts them, torchrun or Ray Train, makes the process group; training is handed what it needs of it. Rank 0 alone
reports and saves. Each rank draws the whole batch of a step, which depends on the seed and the step alone, and computes its
rows; the gradients are added up once the backward pass is done, so that a step is that of one process at the same batch but for
the order of sums. Ranks go through the same turns in step: whatever one of them alone knows (that it is asked to stop) all of
them agree on.

PyTorch's DistributedDataParallel would add gradients up during the backward pass, by hooks that a CUDA graph does not run. The
graph is worth more: at the 130M shape a captured step takes half the time of an eager one on an H100 (docs/LOG.md, "Large models").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workers.errors import CheckpointError
from workers.tasks import Batch
from workers.training.context import JSON, RunContext
from workers.training.window import NORM

_BUCKET = 2**26  # bytes


class Ranks:
    """This process among those of PyTorch's default process group, which exists already.

    Args:
        started_by: who made the processes, for the record.
        control: a group for numbers on the host, which no step waits for; made here by default, by all ranks at once.
    """

    def __init__(self, control: dist.ProcessGroup | None = None, *, started_by: str = "") -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.backend = str(dist.get_backend())
        self._started_by = started_by
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

    def whole(self, outcome: Tensor) -> Tensor:
        """Return a step's outcome whose loss and accuracy are the sums of the ranks' shares; the norm is that of all already."""
        shares = outcome.clone()
        dist.all_reduce(shares)
        shares[NORM] = outcome[NORM]
        return shares

    def share(self, batch: Batch) -> Batch:
        """Return this rank's rows of a batch."""
        return batch.cut(self.size)[self.rank]

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Put the sum of all ranks' gradients in place of each, in buckets; on a GPU nothing waits for it."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            pieces = flat.split([gradient.numel() for gradient in bucket])  # type: ignore[no-untyped-call]
            torch._foreach_copy_(bucket, [piece.view_as(one) for piece, one in zip(pieces, bucket, strict=True)])

    def facts(self) -> dict[str, JSON]:
        """Return what the record keeps."""
        return {"processes": self.size, "backend": self.backend, "started_by": self._started_by}

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


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one type in lists of about `_BUCKET` bytes: many small sums would each cost a round."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(one.nbytes for one in bucket) + gradient.nbytes > _BUCKET
        if bucket and (full or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


class _Silent:
    """Takes what ranks beside the first would report."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def note(self, kind: str, payload: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...
