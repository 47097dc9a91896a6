"""How fast models train here: captured and eager steps, a Transformer of equal size, and `mamba_ssm` where it is installed.

Run it as `mambalab bench train` or `python -m workers.training.bench --out FILE`. Model FLOPs count products with weights,
attention's products and the scan's recurrence (9 a state, as its authors count), three times for forward and backward; they are
set against the GPU's dense peak at the run's precision. A GPU's idle share is what of a step no kernel covers.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from workers.training.bench_cases import Case, Subject, cases, forward_operations, subjects
from workers.training.bench_report import BenchReport
from workers.training.determinism import reproducible
from workers.training.errors import is_out_of_memory
from workers.training.measuring import Rate, Rig, Steps, measure_rate, take_apart
from workers.training.precision import place

PEAKS = {"H100": (989.4e12, 66.9e12), "H200": (989.4e12, 66.9e12), "A100": (312e12, 19.5e12)}
"""Dense bf16 and plain fp32 operations a second, as the vendor states them for the SXM cards."""

_PROFILED = 20


@dataclass(frozen=True, slots=True)
class TrainRow:
    """What one subject reaches at one case, or why it has no speed."""

    case: str
    subject: str
    precision: str
    mode: str = ""
    parameters: int = 0
    steps_per_s: Rate | None = None
    tokens_per_s: float | None = None
    model_flops: float | None = None
    utilisation: float | None = None
    peak_mb: float | None = None
    idle: float | None = None
    launches: float | None = None
    kernels: tuple[tuple[str, float, float], ...] = ()
    refused: str = ""


@dataclass(slots=True)
class TrainReport(BenchReport[TrainRow]):
    """What every subject reaches."""

    bench = "train"

    def table(self) -> str:
        """Return the figures as lines of text."""
        head = f"{'case':<19} {'subject':<22} {'mode':<13} {'steps/s':>9} {'tokens/s':>11}"
        head += f" {'MFU':>6} {'idle':>5} {'kernels':>7} {'peak MB':>8}"
        lines = [self.heading(), head]
        for row in self.rows:
            start = f"{row.case:<19} {row.subject:<22} {f'{row.mode} {row.precision}':<13} "
            if row.steps_per_s is None or row.tokens_per_s is None:
                lines.append(f"{start}{row.refused}")
                continue
            share = "-" if row.utilisation is None else f"{row.utilisation:.1%}"
            idle = "-" if row.idle is None else f"{row.idle:.0%}"
            launches = "-" if row.launches is None else f"{row.launches:.0f}"
            peak = "-" if row.peak_mb is None else f"{row.peak_mb:,.0f}"
            rate = f"{row.steps_per_s.median:>9,.1f} {row.tokens_per_s:>11,.0f}"
            lines.append(f"{start}{rate} {share:>6} {idle:>5} {launches:>7} {peak:>8}")
        return "\n".join(lines)


def run_bench(
    names: Sequence[str] = (),
    precisions: Sequence[str] = ("bf16", "fp32"),
    *,
    quick: bool = False,
    commit: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[TrainReport], None] = lambda _: None,
) -> TrainReport:
    """Train every subject at every case for some seconds.

    Args:
        names: of cases; all by default.
        precisions: on a GPU; a CPU trains in fp32. The large model is trained in bf16 alone.
        quick: a fifth of the time a figure.
        commit: what is measured; asked of git by default.
        progress: told what is about to be measured.
        keep: given the report after each row, so that what ends the run takes nothing with it.

    Raises:
        ValueError: an unknown case; names those that are known.
    """
    gpu = torch.cuda.is_available()
    known = cases(gpu=gpu)
    unknown = set(names) - {case.name for case in known}
    if unknown:
        raise ValueError(
            f"no case {', '.join(sorted(unknown))}; here there is {', '.join(case.name for case in known)}"
        )
    report = TrainReport.begin("cuda" if gpu else "cpu", commit)
    for case in known:
        if names and case.name not in names:
            continue
        for precision in (precisions if gpu else ("fp32",)) if case.vocab_size is None else ("bf16",):
            for subject in subjects(case, gpu=gpu):
                progress(f"{case.name}, {precision}: {subject.name}, capture {subject.capture}")
                report.rows.append(_measure(case, subject, precision, budget_s=0.2 if quick else 1.0))
                keep(report)
    return report


def _measure(case: Case, subject: Subject, precision: str, *, budget_s: float) -> TrainRow:
    model = subject.change(case.spec.model)
    train = case.spec.train.model_copy(update={"capture": subject.capture, "precision": precision})
    spec = case.spec.model_copy(update={"model": model, "train": train})
    placement = place(spec)
    on_gpu = placement.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(placement.device)
    try:
        with reproducible(placement) if subject.rig is None else contextlib.nullcontext():
            task = case.task()
            if subject.rig is None:
                rig: Steps = Rig(spec, placement, task=task, members=subject.members)
            else:
                rig = subject.rig(spec, placement, task)
            rig.settle()
            rate = measure_rate(rig, budget_s=budget_s)
            anatomy = take_apart(rig, _PROFILED if rate.median > _PROFILED else 2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return TrainRow(case.name, subject.name, precision, refused="out of memory")
    flops = 3.0 * rig.tokens * forward_operations(rig.model, spec.model, task.seqlen)
    peak = _peak(precision) if on_gpu else None
    return TrainRow(
        case.name,
        subject.name,
        precision,
        mode=rig.mode()[0],
        parameters=rig.parameters,
        steps_per_s=rate,
        tokens_per_s=rate.median * rig.tokens,
        model_flops=flops,
        utilisation=None if peak is None else flops * rate.median / peak,
        peak_mb=torch.cuda.max_memory_allocated(placement.device) / 2**20 if on_gpu else None,
        idle=max(0.0, 1 - anatomy.busy_microseconds * rate.median / 1e6) if on_gpu else None,
        launches=anatomy.launches,
        kernels=tuple((one.name, one.calls, one.microseconds) for one in anatomy.kernels[:10]),
        refused="",
    )


def _peak(precision: str) -> float | None:
    name = torch.cuda.get_device_name()
    return next((peaks[precision != "bf16"] for card, peaks in PEAKS.items() if card in name), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: the table on stdout, the JSON in a file."""
    parser = argparse.ArgumentParser(prog="python -m workers.training.bench", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the JSON report here")
    parser.add_argument("--case", action="append", default=[], dest="names", help="only this case (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time a figure")
    parser.add_argument("--commit", help="the commit to record, where git cannot be asked")
    options = parser.parse_args(arguments)

    def keep(report: TrainReport) -> None:
        if options.out is not None:
            report.write(options.out)

    report = run_bench(options.names, quick=options.quick, commit=options.commit, progress=_tell, keep=keep)
    sys.stdout.write(report.table() + "\n")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
