"""What is benchmarked: the ops, their shapes, the official figures recorded for them, and the fewest bytes and exponentials."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from kernels.bench.problems import (
    Problem,
    Sizes,
    causal_conv1d_problem,
    causal_conv1d_update_problem,
    complex_scan_problem,
    rms_norm_problem,
    selective_scan_problem,
    selective_state_update_problem,
)
from kernels.common.errors import UnsupportedError

OFFICIAL_SCAN = "state-spaces/mamba e9594ce, H100 80GB HBM3, torch 2.11.0+cu130, bf16, z, D, dt bias, softplus"
Make = Callable[[torch.dtype, str], Problem]


class Anchor(NamedTuple):
    """Times of the official kernel, recorded elsewhere; milliseconds, median."""

    forward: float
    backward: float
    graph_forward: float | None = None
    """Under a CUDA graph, without launch time; recorded for the launch-bound shapes."""
    graph_backward: float | None = None
    source: str = OFFICIAL_SCAN


class Work(NamedTuple):
    """The least an op must do: bytes moved with every input read and every output written once, and exponentials."""

    forward_bytes: float
    backward_bytes: float
    forward_exps: float = 0
    backward_exps: float = 0


@dataclass(frozen=True)
class Shape:
    """One size of an op."""

    sizes: dict[str, int]
    anchor: Anchor | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The sizes in the entry's order: `8x2048x2048x16`."""
        return "x".join(str(size) for size in self.sizes.values())


@dataclass(frozen=True)
class Entry:
    """One op of the benchmark."""

    name: str
    sizes: tuple[str, ...]
    """The dimensions in the order of a label."""
    make: Callable[[Sizes, torch.dtype, str], Problem]
    work: Callable[[Sizes, int], Work]
    """From sizes and bytes per element of the dtype."""
    shapes: tuple[Shape, ...]
    small_shapes: tuple[Shape, ...]
    """What a machine without a GPU can time."""
    checks: tuple[Make, ...]
    """Small problems with every option; parity on them is what allows a speed."""


def select(ops: Sequence[str] | None, shapes: Sequence[str] | None, *, small: bool) -> list[tuple[Entry, Shape]]:
    """The entries and shapes asked for, all of them by default.

    Raises:
        UnsupportedError: an op or a shape that is not in the registry; names those that are.
    """
    names = [entry.name for entry in ENTRIES]
    unknown = [op for op in ops or () if op not in names]
    if unknown:
        raise UnsupportedError(f"bench: unknown op {unknown[0]!r}; known: {', '.join(names)}")
    entries = [entry for entry in ENTRIES if ops is None or entry.name in ops]
    pairs = [(entry, shape) for entry in entries for shape in (entry.small_shapes if small else entry.shapes)]
    chosen = [pair for pair in pairs if shapes is None or pair[1].label in shapes]
    missing = [label for label in shapes or () if label not in {shape.label for _, shape in pairs}]
    if missing:
        known = ", ".join(f"{entry.name} {shape.label}" for entry, shape in pairs)
        raise UnsupportedError(f"bench: unknown shape {missing[0]!r}; known: {known}")
    return chosen


def _shapes(names: tuple[str, ...], *rows: tuple[tuple[int, ...], Anchor | None, str]) -> tuple[Shape, ...]:
    return tuple(Shape(dict(zip(names, sizes, strict=True)), anchor, note) for sizes, anchor, note in rows)


def _scan_work(sizes: Sizes, width: int) -> Work:
    rows = sizes["batch"] * sizes["seqlen"]
    elements, states = rows * sizes["d_inner"], rows * sizes["d_state"]
    exps = elements * sizes["d_state"]
    # forward: x, dt, z in, y out, B and C in; backward: those and dy in, dx, ddt, dz, dB, dC out
    return Work(width * (4 * elements + 2 * states), width * (7 * elements + 4 * states), exps, exps)


def _complex_scan_work(sizes: Sizes, width: int) -> Work:
    rows = sizes["batch"] * sizes["seqlen"]
    elements, states = rows * sizes["d_inner"], rows * sizes["d_state"]
    exps = elements * sizes["d_state"]  # and as many sines and cosines, which the kernel computes as polynomials
    return Work(width * 4 * elements + 16 * states, width * 7 * elements + 32 * states, exps, exps)


def _conv_work(sizes: Sizes, width: int) -> Work:
    elements = sizes["batch"] * sizes["seqlen"] * sizes["d"]
    return Work(width * 2 * elements, width * 3 * elements)


def _norm_work(sizes: Sizes, width: int) -> Work:
    elements = sizes["batch"] * sizes["seqlen"] * sizes["d"]
    # the residual stream is fp32, in and out; backward: dy, stream, dstream in, dx and dresidual out
    return Work((2 * width + 8) * elements, (2 * width + 12) * elements)


def _step_work(sizes: Sizes, width: int) -> Work:
    states = sizes["batch"] * sizes["d_inner"] * sizes["d_state"]
    return Work(8 * states + 4 * width * sizes["batch"] * sizes["d_inner"], 0, states)


def _conv_step_work(sizes: Sizes, width: int) -> Work:
    return Work(width * sizes["batch"] * sizes["d"] * 2 * sizes["width"], 0)


def _conv_check(width: int) -> Make:
    sizes = {"batch": 2, "seqlen": 83, "d": 37, "width": width}
    return lambda dtype, device: causal_conv1d_problem(sizes, dtype, device, initial_state=True, reset=True)


def _conv_step_check(width: int) -> Make:
    return lambda dtype, device: causal_conv1d_update_problem({"batch": 3, "d": 77, "width": width}, dtype, device)


_SCAN = ("batch", "d_inner", "seqlen", "d_state")
_CONV = ("batch", "seqlen", "d", "width")
_NORM = ("batch", "seqlen", "d")
_STEP = ("batch", "d_inner", "d_state")
_CONV_STEP = ("batch", "d", "width")

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "selective_scan",
        _SCAN,
        selective_scan_problem,
        _scan_work,
        _shapes(
            _SCAN,
            ((8, 2048, 2048, 16), Anchor(0.595, 2.446), ""),
            ((8, 2048, 4096, 16), Anchor(1.168, 4.870), ""),
            ((1, 2048, 2048, 16), Anchor(0.0896, 0.396, 0.0790, 0.3687), ""),
            ((1, 2048, 16384, 16), Anchor(0.774, 2.86), ""),
            ((1, 2048, 131072, 16), Anchor(5.81, 22.8), ""),
            ((32, 1536, 1024, 16), Anchor(0.842, 3.52), ""),
            ((64, 128, 4096, 16), Anchor(0.690, 2.717), "selective copying"),
            ((8, 128, 256, 16), Anchor(0.0165, 0.0536, 0.0096, 0.0351), "induction heads"),
            ((8, 2048, 2048, 64), Anchor(1.978, 9.27), ""),
            ((8, 2048, 1100, 16), None, "uneven: per token as 8x2048x2048x16"),
        ),
        _shapes(_SCAN, ((2, 64, 256, 16), None, ""), ((8, 128, 256, 16), None, "induction heads")),
        (
            lambda dtype, device: selective_scan_problem(
                {"batch": 2, "d_inner": 37, "seqlen": 83, "d_state": 16}, dtype, device, initial_state=True, reset=True
            ),
            lambda dtype, device: selective_scan_problem(
                {"batch": 3, "d_inner": 66, "seqlen": 129, "d_state": 5}, dtype, device, ngroups=2
            ),
        ),
    ),
    Entry(
        "selective_scan_complex",
        _SCAN,
        complex_scan_problem,
        _complex_scan_work,
        _shapes(
            _SCAN,
            ((8, 2048, 2048, 16), None, ""),
            ((8, 2048, 2048, 8), None, "as many numbers as 16 real states"),
            ((64, 128, 4096, 16), None, "selective copying"),
            ((32, 512, 256, 16), None, "Table 8 at small scale"),
        ),
        _shapes(_SCAN, ((8, 128, 256, 16), None, "induction heads")),
        (
            lambda dtype, device: complex_scan_problem(
                {"batch": 2, "d_inner": 37, "seqlen": 83, "d_state": 16}, dtype, device, initial_state=True, reset=True
            ),
        ),
    ),
    Entry(
        "causal_conv1d",
        _CONV,
        causal_conv1d_problem,
        _conv_work,
        _shapes(
            _CONV,
            ((8, 2048, 2048, 4), None, ""),
            ((32, 1024, 1536, 4), None, ""),
            ((64, 4096, 128, 4), None, "selective copying"),
            ((8, 256, 128, 4), None, "induction heads"),
        ),
        _shapes(_CONV, ((8, 256, 128, 4), None, "induction heads")),
        tuple(_conv_check(width) for width in (2, 4, 11)),
    ),
    Entry(
        "rms_norm",
        _NORM,
        rms_norm_problem,
        _norm_work,
        _shapes(
            _NORM,
            ((8, 2048, 1024), None, ""),
            ((32, 1024, 768), None, "language model, 130M"),
            ((64, 4096, 64), None, "selective copying"),
            ((8, 256, 64), None, "induction heads"),
        ),
        _shapes(_NORM, ((8, 256, 64), None, "induction heads")),
        (
            lambda dtype, device: rms_norm_problem({"batch": 3, "seqlen": 83, "d": 77}, dtype, device),
            lambda dtype, device: rms_norm_problem({"batch": 1, "seqlen": 9, "d": 1500}, dtype, device, residual=False),
        ),
    ),
    Entry(
        "selective_state_update",
        _STEP,
        selective_state_update_problem,
        _step_work,
        _shapes(
            _STEP,
            ((1, 5120, 16), None, "2.8B"),
            ((64, 1536, 16), None, "130M"),
            ((128, 5120, 16), None, "2.8B"),
        ),
        _shapes(_STEP, ((8, 1536, 16), None, "130M")),
        (
            lambda dtype, device: selective_state_update_problem(
                {"batch": 3, "d_inner": 37, "d_state": 16}, dtype, device
            ),
            lambda dtype, device: selective_state_update_problem(
                {"batch": 2, "d_inner": 66, "d_state": 70}, dtype, device, ngroups=2
            ),
        ),
    ),
    Entry(
        "causal_conv1d_update",
        _CONV_STEP,
        causal_conv1d_update_problem,
        _conv_step_work,
        _shapes(_CONV_STEP, ((1, 5120, 4), None, "2.8B"), ((128, 5120, 4), None, "2.8B")),
        _shapes(_CONV_STEP, ((8, 1536, 4), None, "130M")),
        tuple(_conv_step_check(width) for width in (2, 4, 11)),
    ),
)
"""In the order of the report."""
