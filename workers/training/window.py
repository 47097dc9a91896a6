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

    def read(self) -> tuple[list[Any], list[Any]]:
        """Return the losses and the norms, oldest first, each a float or a list with one a member; waits for the device."""
        losses, norms, _ = Reading(self._values[: self.length]).wait()
        return losses, norms

    def cut(self) -> Reading:
        """Return the rows, on their way to the host, and forget them; the newest step's accuracy must have been measured."""
        reading = Reading(self._values[: self.length])
        self.clear()
        return reading

    def clear(self) -> None:
        """Forget the steps."""
        self.length = 0


class Reading:
    """A window's rows, copied off the device behind the steps asked for so far, while the host goes on."""

    def __init__(self, rows: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if rows.is_cuda:
            self._rows = torch.empty(rows.shape, pin_memory=True).copy_(rows, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        else:
            self._rows = rows.clone()

    def wait(self) -> tuple[list[Any], list[Any], Any]:
        """Return losses, norms and the last row's accuracy, a float each or a list with one a member, once they are here."""
        if self._copied is not None:
            self._copied.synchronize()
        losses, norms, accuracies = self._rows.transpose(0, 1).tolist()
        return losses, norms, accuracies[-1] if accuracies else None
