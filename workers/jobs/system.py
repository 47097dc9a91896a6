"""What a run uses of its machine, every few seconds: metrics `system/...` beside those that training logs.

A thread of the worker's own looks; training never waits for it. What it finds goes into the same spool, at the newest
step that training has logged, since a row of the store is known by its step. While a run stands at one step the row
holds the mean of the looks so far, each replacing the one before. Nothing is logged before training's first row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import psutil

from workers.jobs.attempt import AttemptSpec
from workers.jobs.sink import SpoolSink
from workers.jobs.system_gpu import GpuMeter, NoGpuError
from workers.jobs.system_host import HostMeter

EVERY_S = 5.0  # where an attempt's spec, of an older version, does not say
FIRST_S = 1.0  # the first look comes soon, so that a screen has something to show
LAST_LOOK_S = 2.0  # a driver that hangs must not keep a run from ending
NOTE = "system"


class Meter(Protocol):
    """Something that can be read."""

    def read(self) -> Mapping[str, float]:
        """Return metrics as of now."""
        ...


@contextmanager
def sampling(attempt: AttemptSpec, *sinks: SpoolSink) -> Iterator[None]:
    """Look at the machine for as long as the block runs, once more at its end, and report to each sink."""
    every_s = interval_of(attempt.spec)
    if every_s == 0:
        yield
        return
    sampler = Sampler(sinks, gpus=attempt.gpus)
    stop = threading.Event()
    thread = threading.Thread(target=sampler.run, args=(stop, every_s), name="system", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LAST_LOOK_S)


def interval_of(spec: Mapping[str, Any]) -> float:
    """Return the seconds between two looks that a run's spec asks for; 0 for none, or for what is no such number."""
    asked = spec.get("resources", {}).get("sample_every_s", EVERY_S)
    return float(asked) if isinstance(asked, int | float) and asked > 0 else 0.0


class Sampler:
    """Reads meters and reports what they say.

    Args:
        sinks: of the runs that this process computes; they share what it uses.
        gpus: the attempt's share of GPUs; without any, none is looked at.
    """

    def __init__(self, sinks: Sequence[SpoolSink], *, gpus: float) -> None:
        self._sinks = sinks
        self._gpus = gpus
        self._meters: list[Meter] = []
        self._means = [_Mean() for _ in sinks]

    def run(self, stop: threading.Event, every_s: float) -> None:
        """Look every few seconds until told to stop, and then once more."""
        try:
            self.open()
            pause = min(FIRST_S, every_s)
            while not stop.wait(pause):
                self.look()
                pause = every_s
            self.look()
        except psutil.Error as error:
            self._note({"ended": f"the system does not tell: {error}"})

    def open(self) -> None:
        """Open the meters and note what there is, and what there is not, and why."""
        self._meters.append(HostMeter())
        facts: dict[str, Any] = {"cpus": psutil.cpu_count(), "memory_mb": round(psutil.virtual_memory().total / 2**20)}
        try:
            if self._gpus == 0:
                raise NoGpuError("this run was given no GPU")
            gpus = GpuMeter()
        except NoGpuError as error:
            self._note({**facts, "gpu": f"none: {error}"})
            return
        first = gpus.read()
        self._meters.append(gpus)
        missing = {"not offered": gpus.silent} if gpus.silent else {}
        self._note({**facts, "gpu": ", ".join(gpus.names), "looked at": sorted(first), **missing})

    def look(self) -> None:
        """Read the meters once and report."""
        values: dict[str, float] = {}
        for meter in self._meters:
            values.update(meter.read())
        for sink, mean in zip(self._sinks, self._means, strict=True):
            if sink.step is not None:
                sink.log_beside(sink.step, mean.add(sink.step, values))

    def _note(self, facts: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.log_beside(NOTE, facts)


class _Mean:
    """The mean of the looks at one step."""

    def __init__(self) -> None:
        self._step = -1
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        if step != self._step:
            self._step, self._sums = step, {}
        for key, value in values.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = total + value, count + 1
        return {key: total / count for key, (total, count) in self._sums.items()}
