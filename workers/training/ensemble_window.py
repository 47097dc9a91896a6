"""What the steps of an ensemble measured, as each member's own loop asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from workers.training.progress import Progress
from workers.training.window import Reading, Window


class SharedWindow(Window):
    """The window that an ensemble's steps are recorded in. Its members take the rows out of it, all at the same time."""

    def __init__(self, capacity: int, device: torch.device, windows: Sequence[MemberWindow]) -> None:
        super().__init__(capacity, device, members=(len(windows),))
        self._windows = windows
        for place, window in enumerate(windows):
            window.attach(self, place)

    def drain(self) -> None:
        """Hand the rows to all members, on their way to the host."""
        if self.length:
            piece = _Piece(self.cut())
            for window in self._windows:
                window.take(piece)


class MemberWindow(Window):
    """One member's share of a shared window, in place of a window of its own. Before it is attached it holds a checkpoint's."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(0, torch.device("cpu"))
        self._losses, self._norms = list(progress.losses), list(progress.norms)
        self._shared: SharedWindow | None = None
        self._place = 0
        self._pieces: list[tuple[_Piece, int]] = []

    def attach(self, shared: SharedWindow, place: int) -> None:
        """Take rows from a shared window from now on, after all that came before; `place` is in the last dimension."""
        self.settle()
        self._shared, self._place = shared, place

    def settle(self) -> None:
        """Let go of the shared window once its rows are taken."""
        if self._shared is not None:
            self._shared.drain()
        self._shared = None

    def take(self, piece: _Piece) -> None:
        """Take one's share of some rows."""
        self._pieces.append((piece, self._place))

    def read(self) -> tuple[list[Any], list[Any]]:
        """Return the losses and the norms, oldest first; waits for the device."""
        losses, norms, _ = self._reading().wait()
        return losses, norms

    def cut(self) -> Reading:
        """Return the rows, on their way to the host, and forget them."""
        reading = self._reading()
        self.clear()
        return reading

    def clear(self) -> None:
        """Forget the steps."""
        self._losses, self._norms, self._pieces = [], [], []

    def _reading(self) -> _MemberReading:
        if self._shared is not None:
            self._shared.drain()
        return _MemberReading(self._losses, self._norms, self._pieces)


class _Piece:
    """Rows of all members, waited for once."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._told: tuple[list[Any], list[Any], Any] | None = None

    def wait(self) -> tuple[list[Any], list[Any], Any]:
        """Return losses and norms, each with one a member, and the last row's accuracies."""
        if self._told is None:
            self._told = self._reading.wait()
        return self._told


class _MemberReading(Reading):
    """One member's rows of several pieces."""

    def __init__(self, losses: list[float], norms: list[float], pieces: list[tuple[_Piece, int]]) -> None:
        super().__init__(torch.empty(0))
        self._losses, self._norms, self._pieces = losses, norms, pieces

    def wait(self) -> tuple[list[Any], list[Any], Any]:
        """Return losses, norms and the last row's accuracy, once they are here."""
        losses, norms, accuracy = list(self._losses), list(self._norms), None
        for piece, place in self._pieces:
            told = piece.wait()
            losses += [row[place] for row in told[0]]
            norms += [row[place] for row in told[1]]
            accuracy = told[2][place]
        return losses, norms, accuracy
