"""Time spent in training steps, and only there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from workers.training.precision import Placement


class StepClock:
    """Counts seconds of training; evaluation and checkpoints run inside `paused()` and count for nothing.

    `beside` has the seconds of such blocks by their names.

    A GPU works behind the host, so pausing and reading the total wait until the device has finished.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._lap_seconds = 0.0
        self.beside: dict[str, float] = {}

    def total(self) -> float:
        """Return the seconds in training since the clock was made."""
        self._placement.synchronize()
        return self._tick()

    def lap(self, steps: int) -> float:
        """Return the steps per second since the last lap, in which so many were done, and begin a new one.

        It does not wait for the device: whoever asks has already seen these steps done, and the next ones may be on their way.
        """
        total = self._tick()
        elapsed = total - self._lap_seconds
        self._lap_seconds = total
        return steps / elapsed if elapsed > 0 else 0.0

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Leave a block out of the count; `beside` counts its seconds under a name."""
        self.total()
        try:
            yield
        finally:
            self._placement.synchronize()
            now = time.perf_counter()
            self.beside[what] = self.beside.get(what, 0.0) + now - self._started
            self._started = now

    def _tick(self) -> float:
        now = time.perf_counter()
        self._seconds += now - self._started
        self._started = now
        return self._seconds
