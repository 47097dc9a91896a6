"""`mambalab bench`: measured speed, with the hardware, versions and commit it was measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import Json
from app.errors import bad_input

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True, add_completion=False)

Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the JSON there too, to be committed.", show_default=False)
]

Folder = Annotated[
    Path | None,
    typer.Option(help="Where to make the sample stores; the system's temporary folder by default.", show_default=False),
]


@app.callback()
def root() -> None:
    """Measure speed on this machine."""


@app.command("kernels")
def kernels(
    *,
    ops: Annotated[list[str] | None, typer.Option("--op", help="Only this op. May be given often.")] = None,
    shapes: Annotated[
        list[str] | None, typer.Option("--shape", help="Only this shape, such as 8x2048x2048x16. May be given often.")
    ] = None,
    subjects: Annotated[
        list[str] | None,
        typer.Option(
            "--subject",
            help="Only this: ours, official (mamba_ssm, where it is installed) or plain. May be given often.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples, and no sequential reference.")] = False,
    output: Output = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the table beside the official kernels there.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check each op against the float64 reference, then time it: on the GPU where there is one, else on the CPU."""
    from app.console import data, say
    from app.errors import CommandError
    from kernels.bench.comparison import comparison
    from kernels.bench.run import SUBJECTS, run_bench
    from kernels.common.errors import UnsupportedError

    try:
        report = run_bench(ops, shapes, quick, subjects=subjects or SUBJECTS)
    except UnsupportedError as error:
        bad_input(str(error))
    if output is not None:
        report.write(output)
        say(f"written to {output}")
    if markdown is not None:
        markdown.write_text(comparison(json.loads(report.to_json())), encoding="utf-8")
        say(f"written to {markdown}")
    data(report.to_json() if as_json else report.table())
    if not report.passed:
        raise CommandError("an op does not agree with its reference; it has no speed")


@app.command("train")
def train(
    *,
    cases: Annotated[list[str] | None, typer.Option("--case", help="Only this case. May be given often.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A fifth of the time a figure.")] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure training steps, captured and eager, beside a Transformer of equal size: on the GPU where there is one.

    Cases on a GPU: induction-heads, selective-copying, lm-130m. On a CPU the first alone.
    """
    from app.console import data, say
    from workers.training.bench import run_bench

    try:
        report = run_bench(cases or (), quick=quick, progress=say)
    except ValueError as error:
        bad_input(f"--case: {error}")
    if output is not None:
        report.write(output)
        say(f"written to {output}")
    data(report.to_json() if as_json else report.table())


@app.command("decode")
def decode(
    *,
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Only this batch. May be given often.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a 130M model generates, token by token, at batches of 1 to 128; on a GPU in a CUDA graph and eager."""
    from app.console import data, say
    from workers.training.bench_decode import BATCHES, run_bench

    report = run_bench(batches or BATCHES, progress=say)
    if output is not None:
        report.write(output)
        say(f"written to {output}")
    data(report.to_json() if as_json else report.table())


@app.command("runs")
def runs(
    *,
    at_once: Annotated[int, typer.Option("--at-once", metavar="N", help="How many seeds are trained at once.")] = 8,
    alone: Annotated[
        int, typer.Option("--alone", metavar="N", help="How many single runs are measured; their mean stands for all.")
    ] = 1,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of each run; the protocol's by default.", show_default=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps, and no long lengths.")] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure whole runs, one after another and as many seeds at once, each in a process of its own. Takes minutes.

    From the start of the process to its last row, by stages. On a GPU: the Mamba row of the paper's Table 11, 204,800 steps and
    lengths to 2^20. On a CPU: a tiny run.
    """
    from app.console import data, say
    from app.errors import CommandError
    from workers.training.bench_runs import RunsError, RunsReport, run_bench

    def keep(report: RunsReport) -> None:
        if output is not None:
            report.write(output)

    if output is not None and not output.parent.is_dir():
        bad_input(f"--output: {output.parent} is not a folder")
    try:
        report = run_bench(at_once, alone, steps=steps, quick=quick, progress=say, keep=keep)
    except ValueError as error:
        bad_input(str(error))
    except RunsError as error:
        raise CommandError(str(error)) from error
    if output is not None:
        say(f"written to {output}")
    data(report.to_json() if as_json else report.table())


@app.command("store")
def store(
    *,
    folder: Folder = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure the store: lists of 1,000 and 10,000 runs, curves, and how fast metrics are taken in."""
    from storage.bench import measure_store

    with _place(folder) as place:
        results = measure_store(place)
    _report("store", results, output, as_json)


@app.command("ui")
def ui(
    *,
    folder: Folder = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure the terminal UI in a terminal of 160 x 50: first paint, curves, keys while 32 runs report. Takes minutes.

    Where `wandb` is on the path, its terminal UI, LEET, is measured beside it.
    """
    from app.console import say
    from tui.bench import measure_ui
    from tui.bench_leet import find_leet, measure_leet, version_of

    program = find_leet()
    with _place(folder) as place:
        results: dict[str, Any] = measure_ui(place)
        if program is None:
            say("wandb is not on the path, so LEET is not measured beside it")
        else:
            results[f"wandb leet {version_of(program)}"] = measure_leet(program, place)
    _report("ui", results, output, as_json)


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """Make a folder for sample stores, and remove it afterwards. Ends with bad input where none can be made."""
    from tempfile import TemporaryDirectory

    try:
        made = TemporaryDirectory(prefix="mambalab-bench-", dir=folder)
    except OSError as error:
        bad_input(f"--folder: cannot make sample stores in {folder or 'the temporary folder'}: {error.strerror}")
    with made as place:
        yield Path(place)


def _report(subject: str, results: dict[str, Any], output: Path | None, as_json: bool) -> None:
    from app.console import data_json, dump_json, say, table
    from app.grid import Grid, Layout

    report = {"bench": subject, "machine": describe_machine(), "results": results}
    if output is not None:
        output.write_text(dump_json(report) + "\n", encoding="utf-8")
        say(f"written to {output}")
    if as_json:
        data_json(report)
    else:
        rows = [[name, f"{value:,}"] for name, value in _flat(results)]
        table(Grid(["measure", "value"], rows, Layout(right=["value"])))


def _flat(results: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in results.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def describe_machine() -> dict[str, Any]:
    """Return what a figure means nothing without: date, processor, versions, commit."""
    import os
    import platform
    import time

    from workers.jobs.provenance import capture

    origin = capture("mambalab bench")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": dict(origin.versions),
        "git_sha": origin.git_sha,
        "git_dirty": origin.git_dirty,
    }


def _cpu_name() -> str:
    import platform

    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
