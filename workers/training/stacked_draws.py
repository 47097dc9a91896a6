"""One call of a task's `sample` for several runs at once, each run's rows from its own stream.

A task draws numbers row by row, and what it makes of them it makes row by row, too. So only the draws themselves differ from a
single run's, and all other kernels run once. On CUDA the draws of all runs are one kernel as well: see `kernels.streams`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kernels.streams import Stream, draw_integers, draw_uniform
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
    first = generators[0]
    if len(generators) == 1:
        return _sample(task, first, batch_size, device, progress[0])
    with _OfGenerators(generators, batch_size):
        return _sample(task, first, batch_size * len(generators), device, progress[0])


def draw_counted(task: Task, mark: torch.Generator, seeds: Tensor, batch_size: int, progress: Sequence[float]) -> Batch:
    """As `draw_together`, of streams that begin at seeds (runs,), which lie on the device; on CUDA alone.

    Args:
        mark: passed to the task in place of a stream's generator, and not drawn from.

    Raises:
        NotImplementedError: the task draws in another way than row by row by `torch.randint` and `torch.rand`.
    """
    with _OfSeeds(mark, Stream.of(seeds), batch_size):
        return _sample(task, mark, batch_size * len(seeds), seeds.device, progress[0])


def draws_together(task: Task, device: torch.device) -> bool:
    """Say whether a task draws as `draw_together` expects."""
    try:
        draw_together(task, [torch.Generator(device) for _ in range(2)], 1, device, (0.0, 0.0))
    except NotImplementedError:
        return False
    return True


def _sample(task: Task, generator: torch.Generator, rows: int, device: torch.device, progress: float) -> Batch:
    if isinstance(task, Curriculum):
        return task.sample_at(generator, rows, device, progress)
    return task.sample(generator, rows, device)


class _OfEach(TorchFunctionMode):
    """Draws from several streams, so many rows each, whatever is to be drawn from a generator."""

    def __init__(self, mark: torch.Generator, streams: int, rows: int) -> None:
        super().__init__()
        self._mark, self._streams, self._rows = mark, streams, rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self._mark:
            return func(*args, **kwargs)
        if func is torch.randint:
            *bounds, shape = args
        elif func is torch.rand:
            bounds, shape = [], args if isinstance(args[0], int) else args[0]
        else:
            raise NotImplementedError(
                f"a task draws by {func}; only torch.randint and torch.rand can be drawn together"
            )
        rows, *rest = shape
        if rows != self._rows * self._streams:
            raise NotImplementedError(f"a task draws numbers of shape {tuple(shape)} for {self._rows} sequences each")
        dtype = kwargs.get("dtype") or (torch.int64 if func is torch.randint else torch.get_default_dtype())
        return self._draw(func, bounds, (self._rows, *rest), dtype)

    @abstractmethod
    def _draw(
        self, func: Callable[..., Any], bounds: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """Return numbers of a shape for each stream, below each other."""


class _OfGenerators(_OfEach):
    def __init__(self, generators: Sequence[torch.Generator], rows: int) -> None:
        super().__init__(generators[0], len(generators), rows)
        self._generators = generators

    def _draw(
        self, func: Callable[..., Any], bounds: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        rows, *rest = shape
        drawn = torch.empty((rows * self._streams, *rest), dtype=dtype, device=self._mark.device)
        for generator, part in zip(self._generators, torch.split(drawn, rows), strict=True):
            func(*bounds, shape, generator=generator, dtype=dtype, out=part)
        return drawn


class _OfSeeds(_OfEach):
    def __init__(self, mark: torch.Generator, stream: Stream, rows: int) -> None:
        super().__init__(mark, len(stream.seeds), rows)
        self._stream = stream

    def _draw(
        self, func: Callable[..., Any], bounds: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        if func is torch.randint:
            low, high = (0, *bounds)[-2:]
            drawn = draw_integers(self._stream, low, high, shape, dtype)
        elif dtype in (torch.float32, torch.float64):
            drawn = draw_uniform(self._stream, shape, dtype)
        else:
            raise NotImplementedError(f"a task draws numbers of {dtype}; only fp32 and fp64 can be counted")
        return drawn.flatten(0, 1)
