"""Timing one implementation of one problem: forward, backward, both under a CUDA graph, and the memory they hold."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.bench.checks import cannot_run
from kernels.bench.floors import FloorTimes
from kernels.bench.problems import Problem
from kernels.bench.registry import Shape
from kernels.bench.report import BenchRow
from kernels.bench.timing import Times, peak_bytes, time_calls, time_graph

GRAPH_BELOW_MS = 0.5
"""Longer calls do not need a graph to hide their launches."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to sample."""

    budget_ms: float
    at_least: int


THOROUGH, QUICK = Effort(100.0, 5), Effort(20.0, 3)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured, and what its rows are set beside."""

    problem: Problem
    shape: Shape
    floors: tuple[FloorTimes, FloorTimes]
    device: str

    def rows(self, implementation: str) -> list[BenchRow]:
        """The forward row, and the backward row if the op has gradients, without times."""
        directions = ("forward", "backward") if self.problem.differentiable else ("forward",)
        return [self._row(implementation, direction) for direction in directions]

    def _row(self, implementation: str, direction: str) -> BenchRow:
        forward, anchor = direction == "forward", self.shape.anchor
        official_ms = graph_ms = None
        if anchor is not None:
            official_ms = anchor.forward if forward else anchor.backward
            graph_ms = anchor.graph_forward if forward else anchor.graph_backward
        return BenchRow(
            self.problem.op,
            self.shape.label,
            self.shape.note,
            direction,
            implementation,
            times=None,
            floors=self.floors[0 if forward else 1],
            official_ms=official_ms,
            official_graph_ms=graph_ms,
            official_source="" if anchor is None else anchor.source,
        )


def measured(subject: Subject, implementation: str, effort: Effort) -> list[BenchRow]:
    """The rows with their times, or with the reason why there are none."""
    rows = subject.rows(implementation)
    try:
        return _timed(subject, rows, effort)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return refused(rows, "out of memory")
    except cannot_run() as error:
        return refused(rows, f"{type(error).__name__}: {error}")


def refused(rows: list[BenchRow], reason: str) -> list[BenchRow]:
    """The rows without a speed."""
    return [replace(row, refused=reason) for row in rows]


def _timed(subject: Subject, rows: list[BenchRow], effort: Effort) -> list[BenchRow]:
    implementation, device = rows[0].implementation, subject.device
    work = _Work(subject.problem, implementation)
    calls = [work.forward, work.backward][: len(rows)]
    times = [time_calls(call, device, budget_ms=effort.budget_ms, at_least=effort.at_least) for call in calls]
    work.forget()
    peak = peak_bytes(work.both) / 1e6 if device == "cuda" else None
    graphs: list[Times | None] = [None] * len(rows)
    # the sequential reference is tens of thousands of launches: a graph of it says nothing about launch time
    if device == "cuda" and implementation != "reference" and times[0].median < GRAPH_BELOW_MS:
        graphs = list(_graphs(work, len(rows)))
    return [
        replace(row, times=taken, graph=graph, peak_mb=peak)
        for row, taken, graph in zip(rows, times, graphs, strict=True)
    ]


def _graphs(work: "_Work", count: int) -> Iterator[Times]:
    forward = time_graph(work.forward)
    yield forward
    if count > 1:
        both = time_graph(work.both)
        median, p20, p80 = (max(0.0, value - forward.median) for value in (both.median, both.p20, both.p80))
        yield Times(median, p20, p80, both.samples, "CUDA graph of both less that of the forward, warm caches")


class _Work:
    """The calls of one problem that are timed."""

    def __init__(self, problem: Problem, implementation: str) -> None:
        self.leaves = {name: problem.tensors[name].detach().requires_grad_() for name in problem.differentiable}
        self.problem = replace(problem, tensors=problem.tensors | self.leaves)
        self.implementation = implementation
        self.saved: tuple[list[Tensor], list[Tensor]] | None = None

    def forward(self) -> object:
        """As in training where the op has gradients: what the backward needs is saved."""
        problem = self.problem
        with torch.set_grad_enabled(bool(self.leaves)):
            return problem.function(**problem.tensors, **problem.options, implementation=self.implementation)

    def backward(self) -> object:
        """The backward alone, of one forward that is kept; the last state is not part of the loss, as in training."""
        if self.saved is None:
            self.saved = self._outputs()
        return self._gradients(*self.saved, keep=True)

    def both(self) -> object:
        """A forward and its backward; the forward alone where there are no gradients."""
        return self._gradients(*self._outputs(), keep=False) if self.leaves else self.forward()

    def forget(self) -> None:
        """Free the kept forward."""
        self.saved = None

    def _outputs(self) -> tuple[list[Tensor], list[Tensor]]:
        values: Any = self.forward()
        outputs = [values] if isinstance(values, Tensor) else [values[0]]
        if self.problem.op == "rms_norm":
            outputs.append(values[1])  # the stream goes on to the next block
        return outputs, [torch.ones_like(value) for value in outputs]

    def _gradients(self, outputs: list[Tensor], seeds: list[Tensor], *, keep: bool) -> object:
        return torch.autograd.grad(outputs, list(self.leaves.values()), seeds, retain_graph=keep, allow_unused=True)
