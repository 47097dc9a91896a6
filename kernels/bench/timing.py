"""Measuring time: CUDA events with the L2 cache flushed before each sample, CUDA graphs for what is launch-bound, a clock on CPU."""

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Call = Callable[[], object]
WARM_UP = 3
GRAPH_COPIES = 10
FLUSH_BYTES = 256 * 2**20
"""Five times the L2 cache of an H100."""

SLOW_MS = 100
"""Calls that take longer are sampled once."""

LAUNCHES = 5
"""How often launching is timed: the slowest counts, as a host with other work takes several times as long now and then."""

MAX_FLUSHES = 32
"""Enough for launches that take 2 ms on the host; what takes longer is bound by its launches and measured as such."""


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    p20: float
    p80: float
    samples: int
    method: str


def summarize(samples: list[float], method: str) -> Times:
    """Median and the 20th and 80th percentile."""
    if len(samples) == 1:
        return Times(samples[0], samples[0], samples[0], 1, method)
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return Times(statistics.median(samples), fifths[0], fifths[3], len(samples), method)


def time_calls(call: Call, device: str, *, budget_ms: float, at_least: int = 5, at_most: int = 200) -> Times:
    """Sample `call` for about `budget_ms`, after a warm-up; a call slower than SLOW_MS on a GPU only once."""
    if not device.startswith("cuda"):
        return _time_on_cpu(call, budget_ms, at_least, at_most)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    call()  # compiles, allocates
    if _event_sample(call, flush) > SLOW_MS:
        return summarize([_event_sample(call, flush)], "events, cold L2")
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    flushes = _flushes_that_cover(call, flush)
    estimate = _event_sample(call, flush, flushes)
    samples = [_event_sample(call, flush, flushes) for _ in range(_count(budget_ms, estimate, at_least, at_most))]
    return summarize(samples, "events, cold L2, launches hidden")


def time_graph(call: Call, *, replays: int = 30) -> Times:
    """Sample `call` in a CUDA graph of GRAPH_COPIES calls: no launch time, warm caches.

    `call` must have run before on this device, so that nothing is compiled while capturing.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_COPIES):
            call()
    graph.replay()
    samples = [_event_sample(graph.replay, None) / GRAPH_COPIES for _ in range(replays)]
    return summarize(samples, "CUDA graph, warm caches")


def peak_bytes(call: Call) -> int:
    """The most that one call holds on the GPU beyond what was allocated before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def _flushes_that_cover(call: Call, flush: Tensor) -> int:
    """How often to write the flush buffer so that the GPU is still at it when the host has launched all of `call`."""
    launched_ms = max(_launch_ms(call) for _ in range(LAUNCHES))
    one_ms = _event_sample(flush.zero_, None)
    return min(MAX_FLUSHES, 1 + math.ceil(2 * launched_ms / one_ms))


def _launch_ms(call: Call) -> float:
    begin = time.perf_counter()
    call()
    launched_ms = (time.perf_counter() - begin) * 1e3
    torch.cuda.synchronize()
    return launched_ms


def _event_sample(call: Call, flush: Tensor | None, flushes: int = 1) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    if flush is not None:
        for _ in range(flushes):
            flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    elapsed: float = start.elapsed_time(end)
    return elapsed


def _time_on_cpu(call: Call, budget_ms: float, at_least: int, at_most: int) -> Times:
    call()
    samples = [_clock_sample(call)]
    while len(samples) < _count(budget_ms, samples[0], at_least, at_most):
        samples.append(_clock_sample(call))
    return summarize(samples, "clock")


def _clock_sample(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def _count(budget_ms: float, estimate_ms: float, at_least: int, at_most: int) -> int:
    return max(at_least, min(at_most, int(budget_ms / max(estimate_ms, 1e-6))))
