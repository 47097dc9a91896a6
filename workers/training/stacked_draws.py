"""One call of a task's `sample` for several runs at once, each run's rows from its own stream.

A task draws numbers row by row, and what it makes of them it makes row by row, too. So only the draws themselves, one kernel
each, are done a run at a time, and all other kernels once: for eight runs of induction heads that is 24 in place of 72.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workers.tasks import Batch, Curriculum, Task


def draw_together(
    task: Task,
    generators: Sequence[torch.Generator],
    batch_size: int,
    device: torch.device,
    progress: Sequence[float],
) -> Batch:
    """Return the runs' batches below each other, (runs * batch_size, seqlen): each is bit for bit what the run alone draws.

    `progress` of each run is of one stage where the task has a curriculum.
    """
    rows, first = batch_size * len(generators), generators[0]
    with _OfEach(generators, batch_size) if len(generators) > 1 else contextlib.nullcontext():
        if isinstance(task, Curriculum):
            return task.sample_at(first, rows, device, progress[0])
        return task.sample(first, rows, device)


def draws_together(task: Task, device: torch.device) -> bool:
    """Say whether a task draws as `draw_together` expects."""
    try:
        draw_together(task, [torch.Generator(device) for _ in range(2)], 1, device, (0.0, 0.0))
    except NotImplementedError:
        return False
    return True


class _OfEach(TorchFunctionMode):
    """Draws from all generators, so many rows each, whatever is to be drawn from the first."""

    def __init__(self, generators: Sequence[torch.Generator], rows: int) -> None:
        super().__init__()
        self._generators, self._rows = generators, rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self._generators[0]:
            return func(*args, **kwargs)
        if func is torch.randint:
            *bounds, shape = args
        elif func is torch.rand:
            bounds, shape = [], args if isinstance(args[0], int) else args[0]
        else:
            raise NotImplementedError(
                f"a task draws by {func}; only torch.randint and torch.rand can be drawn together"
            )
        return self._draw(func, bounds, tuple(shape), kwargs)

    def _draw(self, func: Callable[..., Any], bounds: Sequence[int], shape: tuple[int, ...], kwargs: Any) -> Tensor:
        rows, *rest = shape
        if rows != self._rows * len(self._generators):
            raise NotImplementedError(f"a task draws numbers of shape {shape} for {self._rows} sequences each")
        dtype = kwargs.get("dtype") or (torch.int64 if func is torch.randint else torch.get_default_dtype())
        drawn = torch.empty(shape, dtype=dtype, device=kwargs.get("device"))
        for generator, part in zip(self._generators, torch.split(drawn, self._rows), strict=True):
            func(*bounds, (self._rows, *rest), generator=generator, dtype=dtype, out=part)
        return drawn
