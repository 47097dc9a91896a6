"""Run the benchmark: `python -m kernels.bench.run --out FILE`.

Each op is first checked against the float64 reference, in this run and on this machine; an op that fails gets no speed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from kernels.bench import machine, official
from kernels.bench.checks import check_entry, check_shape
from kernels.bench.floors import floor_times, measure_floors
from kernels.bench.measure import QUICK, THOROUGH, Subject, measured, refused
from kernels.bench.registry import select
from kernels.bench.report import BenchReport, BenchRow
from kernels.bench.verify import ParityRow, dtype_name
from kernels.common.errors import KernelError

NO_GPU = "No CUDA device here: the plain forms are timed on the CPU, the Triton kernels are not."
PLAIN_SEQLEN = 2048
"""On a GPU the plain forms of the scan are launches for every position: longer sequences take seconds and say nothing new."""


def run_bench(
    ops: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    quick: bool = False,
    *,
    device: str | None = None,
    commit: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Verify and time the ops, all at all shapes by default.

    Args:
        ops: names as in the registry.
        shapes: labels as in the registry, like "8x2048x2048x16".
        quick: fewer samples, parity on the small problems alone, and none of the slow plain forms beside the fast one.
        device: "cuda" where there is one, else "cpu".
        commit: what was measured; asked of git by default.
        progress: told what is about to be measured; a full run takes minutes.

    Raises:
        UnsupportedError: an unknown op or shape; names those that are known.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device == "cuda"
    pairs = select(ops, shapes, small=not gpu)
    dtype = torch.bfloat16 if gpu else torch.float32
    report = BenchReport(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=machine.hardware(device),
        versions=machine.versions(),
        commit=commit or machine.commit(),
        dtype=dtype_name(dtype),
        floors=measure_floors(device, budget_ms=(QUICK if quick else THOROUGH).budget_ms),
        notes=[] if gpu else [NO_GPU],
    )
    checked: dict[str, list[ParityRow]] = {}
    for number, (entry, shape) in enumerate(pairs, start=1):
        if progress is not None:
            progress(f"{number} of {len(pairs)}: {entry.name} {shape.label}")
        if entry.name not in checked:
            checked[entry.name] = check_entry(entry, dtype, device)
            report.parity += checked[entry.name]
        at_shape = check_shape(entry, shape, dtype, device) if gpu and not quick else []
        report.parity += at_shape
        problem = entry.make(shape.sizes, dtype, device)
        floors = floor_times(entry.work(shape.sizes, dtype.itemsize), report.floors)
        subject = Subject(problem, shape, floors, device)
        report.rows += list(_rows(subject, checked[entry.name] + at_shape, quick))
    return report


def _rows(subject: Subject, checks: Sequence[ParityRow], quick: bool) -> Iterator[BenchRow]:
    problem, gpu = subject.problem, subject.device == "cuda"
    effort = QUICK if quick else THOROUGH
    ours = "triton" if gpu else problem.plain
    failed = [row for row in checks if not row.passed]
    if failed:
        worst = failed[0]
        reason = f"parity failed: {worst.tensor} of {worst.case}, error {worst.error:.2e}, bound {worst.bound:.2e}"
        yield from refused(subject.rows(ours), reason)
    else:
        yield from measured(subject, ours, effort)
    theirs = official.official(problem) if gpu else None
    if theirs is not None:
        yield from measured(Subject(theirs, subject.shape, subject.floors, subject.device), official.NAME, effort)
    if quick or subject.shape.sizes.get("seqlen", 1) > PLAIN_SEQLEN:
        return
    for plain in (problem.plain, "reference") if gpu else ("reference",):
        yield from measured(subject, plain, QUICK)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: the table on stdout, the JSON in a file; 1 if an op failed its parity, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.run", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the JSON report here")
    parser.add_argument("--op", action="append", dest="ops", help="only this op (may be repeated)")
    parser.add_argument("--shape", action="append", dest="shapes", help="only this shape, like 8x2048x2048x16")
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples, small parity problems, no plain forms beside the fast one"
    )
    parser.add_argument("--commit", help="the commit to record, where git cannot be asked")
    options = parser.parse_args(arguments)
    try:
        report = run_bench(
            options.ops,
            options.shapes,
            options.quick,
            commit=options.commit,
            progress=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
        )
    except KernelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(report.table() + "\n")
    if options.out is not None:
        report.write(options.out)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
