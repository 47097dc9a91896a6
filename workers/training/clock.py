"""Time spent in training steps, and only there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from workers.training.precision import Placement


class StepClock:
    """Counts steps and seconds of training; evaluation and checkpoints run inside `paused()` and count for nothing.

    A GPU works behind the host, so pausing and reading wait until the device has finished the steps counted.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._lap_seconds = 0.0
        self._lap_steps = 0

    def count_steps(self, steps: int) -> None:
        """Count steps that were just done or asked for."""
        self._lap_steps += steps

    def total(self) -> float:
        """Return the seconds in training since the clock was made."""
        self._placement.synchronize()
        now = time.perf_counter()
        self._seconds += now - self._started
        self._started = now
        return self._seconds

    def lap(self) -> float:
        """Return the steps per second since the last lap and begin a new one; 0 where no step was counted."""
        total = self.total()
        elapsed = total - self._lap_seconds
        rate = self._lap_steps / elapsed if elapsed > 0 else 0.0
        self._lap_seconds, self._lap_steps = total, 0
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave a block out of the count."""
        self.total()
        try:
            yield
        finally:
            self._placement.synchronize()
            self._started = time.perf_counter()
