"""What the steps since the last logged one measured, kept on the device so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LOSS, NORM, ACCURACY = range(3)
"""The columns of a window's rows."""


class Window:
    """Loss, gradient norm and accuracy of the steps since the last logged one, on the device: a row a step.

    In an ensemble each of the three has one entry a member: `members` is then (K,), else (). The accuracy is that of
    the steps that were measured, and means nothing in the others' rows. `losses` and `norms` are those of earlier steps,
    from a checkpoint.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device,
        *,
        losses: Sequence[Any] = (),
        norms: Sequence[Any] = (),
        members: tuple[int, ...] = (),
    ) -> None:
        self.length = len(losses)
        self._values = torch.zeros(capacity + self.length, 3, *members, device=device)
        if self.length:
            restored = torch.tensor([list(losses), list(norms)], device=device)
            self._values[: self.length, :ACCURACY] = restored.transpose(0, 1)

    def record(self, rows: Tensor) -> None:
        """Keep the rows of one or more steps, (steps, 3, *members); one copy on the device, whatever their number."""
        end = self.length + len(rows)
        self._values[self.length : end].copy_(rows)
        self.length = end

    def accuracy(self) -> Tensor:
        """Return the newest step's accuracy, on the device; it must have been measured."""
        return self._values[self.length - 1, ACCURACY]

    def read(self) -> tuple[list[Any], list[Any]]:
        """Return the losses and the norms, oldest first, each a float or a list with one a member; waits for the device."""
        losses, norms = self._values[: self.length, :ACCURACY].transpose(0, 1).tolist()
        return losses, norms

    def clear(self) -> None:
        """Forget the steps."""
        self.length = 0
