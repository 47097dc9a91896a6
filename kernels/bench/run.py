"""Run the benchmark: `python -m kernels.bench.run --out FILE`.

Each op is first checked against the float64 reference, in this run and on this machine; an op that fails gets no speed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from kernels.bench import machine, official
from kernels.bench.checks import cannot_run, check_entry, check_shape
from kernels.bench.comparison import comparison
from kernels.bench.floors import floor_times, measure_floors
from kernels.bench.measure import QUICK, THOROUGH, Effort, Subject, measured, refused
from kernels.bench.registry import select
from kernels.bench.report import OFFICIAL, BenchReport, BenchRow
from kernels.bench.verify import ParityRow, dtype_name
from kernels.common.errors import KernelError, UnsupportedError

NO_GPU = "No CUDA device here: the plain forms are timed on the CPU, the Triton kernels are not."
SUBJECTS = ("ours", "official", "plain")
UNFINISHED = "Unfinished: {done} of {of} problems measured."
PLAIN_SEQLEN = 2048
"""On a GPU the plain forms of the scan are launches for every position: longer sequences take seconds and say nothing new."""


def run_bench(
    ops: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    quick: bool = False,
    *,
    subjects: Collection[str] = SUBJECTS,
    device: str | None = None,
    commit: str | None = None,
    progress: Callable[[str], None] | None = None,
    keep: Callable[[BenchReport], None] | None = None,
) -> BenchReport:
    """Verify and time the ops, all at all shapes by default.

    Args:
        ops: names as in the registry.
        shapes: labels as in the registry, like "8x2048x2048x16".
        quick: fewer samples, parity on the small problems alone, and none of the slow plain forms beside the fast one.
        subjects: of SUBJECTS: what is timed. Without "ours" nothing is checked against float64, as nothing is claimed.
        device: "cuda" where there is one, else "cpu".
        commit: what was measured; asked of git by default.
        progress: told what is about to be measured; a full run takes minutes.
        keep: given the report, marked as unfinished, after each problem, so that what ends the run takes nothing with it.

    Raises:
        UnsupportedError: an unknown op, shape or subject; names those that are known.
    """
    unknown = [subject for subject in subjects if subject not in SUBJECTS]
    if unknown:
        raise UnsupportedError(f"bench: unknown subject {unknown[0]!r}; known: {', '.join(SUBJECTS)}")
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
        checks: list[ParityRow] = []
        if "ours" in subjects:
            if entry.name not in checked:
                checked[entry.name] = check_entry(entry, dtype, device)
                report.parity += checked[entry.name]
            at_shape = check_shape(entry, shape, dtype, device) if gpu and not quick else []
            report.parity += at_shape
            checks = checked[entry.name] + at_shape
        problem = entry.make(shape.sizes, dtype, device)
        floors = floor_times(entry.work(shape.sizes, dtype.itemsize), report.floors)
        report.rows += list(_rows(Subject(problem, shape, floors, device), checks, quick, subjects))
        if keep is not None and number < len(pairs):
            keep(replace(report, notes=[*report.notes, UNFINISHED.format(done=number, of=len(pairs))]))
    return report


def _rows(subject: Subject, checks: Sequence[ParityRow], quick: bool, subjects: Collection[str]) -> Iterator[BenchRow]:
    problem, gpu = subject.problem, subject.device == "cuda"
    effort = QUICK if quick else THOROUGH
    ours = "triton" if gpu else problem.plain
    failed = [row for row in checks if not row.passed]
    if "ours" in subjects and failed:
        worst = failed[0]
        reason = f"parity failed: {worst.tensor} of {worst.case}, error {worst.error:.2e}, bound {worst.bound:.2e}"
        yield from refused(subject.rows(ours), reason)
    elif "ours" in subjects:
        yield from measured(subject, ours, effort)
    if gpu and "official" in subjects:
        yield from _official_rows(subject, effort)
    if "plain" not in subjects or quick or subject.shape.sizes.get("seqlen", 1) > PLAIN_SEQLEN:
        return
    for plain in (problem.plain, "reference") if gpu else ("reference",):
        yield from measured(subject, plain, QUICK)


def _official_rows(subject: Subject, effort: Effort) -> Iterator[BenchRow]:
    problem = official.official(subject.problem)
    if problem is None:
        return
    theirs = replace(subject, problem=problem)
    try:
        apart = official.difference(subject.problem, problem, "triton")
    except cannot_run() as error:
        yield from refused(theirs.rows(OFFICIAL), f"{type(error).__name__}: {error}")
        return
    if apart < official.FAR_APART:
        yield from measured(theirs, OFFICIAL, effort)
    else:
        yield from refused(theirs.rows(OFFICIAL), f"its output differs from ours by {apart:.2g} of its size")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: the table on stdout, the JSON in a file; 1 if an op failed its parity, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.run", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the JSON report here")
    parser.add_argument("--op", action="append", dest="ops", help="only this op (may be repeated)")
    parser.add_argument("--shape", action="append", dest="shapes", help="only this shape, like 8x2048x2048x16")
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples, small parity problems, no plain forms beside the fast one"
    )
    parser.add_argument(
        "--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, help="what to time; default: all of them"
    )
    parser.add_argument("--markdown", type=Path, help="write the comparison with the official kernels here")
    parser.add_argument("--commit", help="the commit to record, where git cannot be asked")
    options = parser.parse_args(arguments)

    def write(report: BenchReport) -> None:
        if options.out is not None:
            report.write(options.out)
        if options.markdown is not None:
            options.markdown.write_text(comparison(json.loads(report.to_json())), encoding="utf-8")

    try:
        report = run_bench(
            options.ops,
            options.shapes,
            options.quick,
            subjects=options.subjects,
            commit=options.commit,
            progress=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
            keep=write,
        )
    except KernelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(report.table() + "\n")
    write(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
