"""What a run uses of its machine's CPUs and memory."""

from __future__ import annotations

import time

import psutil

MIB = 2**20


class HostMeter:
    """Reads this process, all that it started, and the machine. A reading costs 2 to 6 ms; none is needed first.

    | metric | meaning |
    | --- | --- |
    | `system/cpu_percent` | CPU time of the process and its descendants since the last reading; 100 is one CPU |
    | `system/memory_mb` | their resident memory in MiB; what they share counts once for each |
    | `system/host_cpu_percent` | share of all CPUs of the machine that is busy, whoever uses them |
    | `system/host_memory_percent` | share of the machine's memory that is not available |
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._used, _ = self._tree()
        self._at = time.monotonic()
        psutil.cpu_percent()  # the first answer is without meaning

    def read(self) -> dict[str, float]:
        """Return the metrics as of now. Raises psutil.Error where the system does not tell."""
        used, resident = self._tree()
        now = time.monotonic()
        busy = max(0.0, used - self._used) / max(now - self._at, 1e-3)
        self._used, self._at = used, now
        return {
            "system/cpu_percent": 100.0 * busy,
            "system/memory_mb": resident / MIB,
            "system/host_cpu_percent": psutil.cpu_percent(),
            "system/host_memory_percent": psutil.virtual_memory().percent,
        }

    def _tree(self) -> tuple[float, int]:
        """Return CPU seconds and bytes of the process and its descendants, those that have ended included."""
        seconds, resident = 0.0, 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    seconds += times.user + times.system + times.children_user + times.children_system
                    resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended meanwhile: its time is its parent's now
        return seconds, resident
