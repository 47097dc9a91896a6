"""Batches that come out of host memory, drawn by a thread while the steps before them are computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from workers.specs import TrainSpec
from workers.tasks import HostData, Task

AHEAD = 2  # steps: one on its way to the device, one being gathered


def prefetches(train: TrainSpec, task: Task, device: torch.device) -> bool:
    """Say whether a run's batches are drawn ahead. On a CPU the thread would share the run's cores, so there it is asked for."""
    if train.prefetch != "auto":
        return train.prefetch == "on"
    return device.type == "cuda" and isinstance(task, HostData) and task.waits_for_host(device)


class _Fetched(NamedTuple):
    batch: Any
    copied: torch.cuda.Event | None


class Prefetch:
    """Makes the batches of steps in their order, ahead of them. Each depends on its step alone, so they are what they would be.

    On a GPU the thread has a stream of its own, on which alone it waits, and the step's stream waits for the copy.

    Args:
        make: returns a step's batch; called in the thread, one step at a time.
        device: where the batches go.
        last: no step after this one is made.
    """

    def __init__(self, make: Callable[[int], Any], device: torch.device, *, last: int) -> None:
        self._make, self._device, self._last = make, device, last
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: dict[int, Future[_Fetched]] = {}

    def take(self, step: int) -> Any:
        """Return a step's batch, and let the next ones be made. Raises what making it raised."""
        for ahead in range(step, min(step + AHEAD, self._last) + 1):
            if ahead not in self._coming:
                self._coming[ahead] = self._thread.submit(self._fetch, ahead)
        fetched = self._coming.pop(step).result()
        if fetched.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(fetched.copied)
            for tensor in tree_leaves(fetched.batch):
                if isinstance(tensor, Tensor):
                    # the thread's stream must not use its memory again before the step has
                    tensor.record_stream(stream)
        return fetched.batch

    def _fetch(self, step: int) -> _Fetched:
        if self._stream is None:
            return _Fetched(self._make(step), None)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            batch = self._make(step)
            return _Fetched(batch, self._stream.record_event())
