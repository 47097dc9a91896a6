"""Time, as the controller sees it: tests put their own in its place."""

from __future__ import annotations

import os
import select
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> float:
        """Return seconds since 1970, for the record."""
        ...

    def monotonic(self) -> float:
        """Return seconds from anywhere, for measuring: it never jumps."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after so long, or as soon as `wake` is called."""
        ...

    def wake(self) -> None:
        """End the present wait, or else the next one, at once. Safe in a signal handler."""
        ...


class SystemClock:
    """The machine's clock.

    Waiting is done on a pipe: a `threading.Event` would be set by a signal handler while the interrupted `wait` of the
    same thread holds its lock.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def now(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since some moment in the past."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Return after so long, or once woken."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        if ready:
            os.read(self._reader, 4096)

    def wake(self) -> None:
        """End a wait."""
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:
            return  # 64 KiB of wake-ups wait already

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reader)
        os.close(self._writer)
