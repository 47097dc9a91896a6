"""What a step takes of a stack's parameters in another form, where the update of the step before has made it already."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.stacked_adamw import Taken, derive
from workers.training.stacked import Stack

COPY, DECAY = 1, 2
"""What there is of a parameter: its values where members lie side by side without gaps, and its rates of decay."""


class StackedTaken:
    """Casts of all weights, copies of channels' parameters and rates of decay of a stack.

    Which of them are wanted is seen at the first step. `renew` makes all of them of the parameters as they are now; between the
    steps of one graph the update does it as it goes (`tables`).

    Args:
        half: what products take weights in, None where that is the parameters' own dtype.
    """

    def __init__(self, stack: Stack, half: torch.dtype | None) -> None:
        self._stack = stack
        self._names = {id(storage): name for name, storage in zip(stack.names, stack.storages, strict=True)}
        self._places: dict[tuple[str, int], int] = {}
        self._size = 0
        self._half = None if half is None else torch.zeros_like(stack.rows, dtype=half)
        self.tables = self._make()

    def renew(self) -> None:
        """Make everything of the parameters as they are now."""
        derive(self._stack.rows, self.tables)

    def cast(self, parameter: Tensor) -> Tensor:
        """Return a stacked parameter as products take it."""
        rows = self._stack.rows if self._half is None else self._half
        return self._stack.view(self._names[id(parameter)], rows)

    def of(self, parameter: Tensor, kind: int) -> Tensor:
        """Return a copy of a stacked parameter or its rates, (members, *shape) contiguous."""
        key = (self._names[id(parameter)], kind)
        if key not in self._places:
            self._places[key] = self._size
            self._size += parameter.numel()
            self.tables = self._make()
            self.renew()
        start = self._places[key]
        return self.tables.apart[start : start + parameter.numel()].view(parameter.shape)

    def addresses(self) -> dict[int, int]:
        """Return the id of each parameter by the address of its copy."""
        ids = {name: key for key, name in self._names.items()}
        return {
            self.tables.apart[start:].data_ptr(): ids[name]
            for (name, kind), start in self._places.items()
            if kind == COPY
        }

    def _make(self) -> Taken:
        width, device = self._stack.rows.shape[1], self._stack.rows.device
        kinds, targets, strides = (torch.zeros(width, dtype=torch.int32) for _ in range(3))
        for (name, kind), start in self._places.items():
            columns = self._stack.columns(name)
            size = columns.stop - columns.start
            assert not kinds[columns].any(), f"two forms of {name} are wanted"
            kinds[columns], strides[columns] = kind, size
            targets[columns] = torch.arange(start, start + size, dtype=torch.int32)
        apart = self._stack.rows.new_zeros(self._size)
        return Taken(self._half, apart, kinds.to(device), targets.to(device), strides.to(device))
