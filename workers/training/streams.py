"""The data streams of steps in flight: one a slot and run, begun anew at each step from the run's seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.streams import serves
from workers.tasks import Batch, Curriculum, Task
from workers.training.stacked_draws import draw_counted, draw_together, draws_together

_PROBE = (2**62 + 3, 5)
"""Seeds by which is seen whether numbers drawn by seeds are those that PyTorch's generators give."""


class Streams:
    """Where the batches of so many runs come from.

    On CUDA the seeds of all slots reach the device in one copy, and one kernel draws for all runs: a generator of each would have
    its seed and its offset set by a kernel each, before each replay and in its way (17 of 571 microseconds of a step of eight
    runs on an H100, and as much again between them, 2026-11-25). Where PyTorch should draw otherwise than `kernels.streams`, or
    a task draws in another way, there are generators all the same.
    """

    def __init__(self, task: Task, batch_size: int, device: torch.device, *, runs: int) -> None:
        self._task, self._batch_size, self._device, self._runs = task, batch_size, device, runs
        self._mark = torch.Generator(device)  # none can be made while a graph is recorded
        self._counted = _counted(task, self._mark, batch_size)
        self._together = runs == 1 or self._counted or draws_together(task, device)
        self._generators: list[torch.Generator] = []
        self._progress: list[Sequence[float]] = []
        self._seeds = torch.zeros(0, runs, dtype=torch.int64, device=device)

    def reserve(self, slots: int) -> None:
        """Make so many slots; those that exist stay as they are."""
        for _ in range(len(self._progress), slots):
            self._progress.append([0.0] * self._runs)
            if not self._counted:
                self._generators += [torch.Generator(self._device) for _ in range(self._runs)]
        if self._counted and len(self._seeds) < slots:
            self._seeds = self._seeds.new_zeros(slots, self._runs)

    def generators(self, slots: int) -> Sequence[torch.Generator]:
        """Return the generators that the first slots draw from; none where they draw by seeds."""
        return self._generators[: slots * self._runs]

    def begin(self, seeds: Sequence[Sequence[int]], progress: Sequence[Sequence[float]]) -> None:
        """Begin the streams of the first slots: a seed a run each, and what share of its steps each run has done."""
        self._progress[: len(progress)] = progress
        if self._counted:
            # pinned, so that nothing waits for the copy; its memory is used again only once that is done
            host = torch.tensor(seeds, pin_memory=self._device.type == "cuda")
            self._seeds[: len(seeds)].copy_(host, non_blocking=True)
            return
        for generator, seed in zip(self._generators, (seed for slot in seeds for seed in slot), strict=False):
            generator.manual_seed(seed)

    def sample(self, slot: int) -> Batch:
        """Return the batches of a slot's step below each other, (runs * batch_size, seqlen)."""
        progress = self._progress[slot]
        alike = self._together and (
            not isinstance(self._task, Curriculum) or len({self._task.stage(share) for share in progress}) == 1
        )
        cuts = [slice(0, self._runs)] if alike else [slice(run, run + 1) for run in range(self._runs)]
        batches = [self._sample(slot, cut, progress[cut]) for cut in cuts]
        if len(batches) == 1:
            return batches[0]
        return Batch(*(torch.cat(halves) for halves in zip(*batches, strict=True)))

    def _sample(self, slot: int, cut: slice, progress: Sequence[float]) -> Batch:
        if self._counted:
            return draw_counted(self._task, self._mark, self._seeds[slot, cut], self._batch_size, progress)
        own = self._generators[slot * self._runs : (slot + 1) * self._runs]
        return draw_together(self._task, own[cut], self._batch_size, self._device, progress)


def _counted(task: Task, mark: torch.Generator, batch_size: int) -> bool:
    """Say whether a task's batches can be drawn by seeds, and are then what they are with generators."""
    device = mark.device
    if not serves(device):
        return False
    seeds = torch.tensor(_PROBE, device=device)
    try:
        found = draw_counted(task, mark, seeds, batch_size, (0.0, 0.0))
        generators = [torch.Generator(device).manual_seed(seed) for seed in _PROBE]
        expected = draw_together(task, generators, batch_size, device, (0.0, 0.0))
    except NotImplementedError:
        return False
    return all(_equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def _equal(mine: Tensor, theirs: Tensor) -> bool:
    return mine.shape == theirs.shape and torch.equal(mine, theirs)
