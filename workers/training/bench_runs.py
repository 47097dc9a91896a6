"""How long whole runs take, from the start of a process to the last row: one after another, and as many seeds at once.

Run it as `mambalab bench runs`. On a GPU they are the Mamba row of the paper's Table 11 (induction heads, 204,800 steps, lengths
to 2^20), on a CPU a tiny run. Each measurement has a process of its own, which starts cold as a run's worker does; metrics stay in
memory, so that the store, the spool and the driver are not in it. One run after another is as many times what one took.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workers.specs import InductionHeadsSpec, ModelSpec, RunSpec, TrainSpec
from workers.training.bench_report import BenchReport
from workers.training.context import MemorySink, RunContext, RunResult
from workers.training.ensemble import run_ensemble
from workers.training.errors import TrainingError
from workers.training.trial import run_trial

AT_ONCE = 8
_LENGTHS = (64, 128, *(2**n for n in range(9, 21)))
_MODULE = "workers.training.bench_runs"


class RunsError(TrainingError):
    """A process of the benchmark failed; says what it said last."""


@dataclass(frozen=True, slots=True)
class RunsRow:
    """What one process took: `seconds` until its last row, by `stages`; `exit` until it was gone is not in them.

    `steps_per_s` is the median of the rows', of one seed; `metrics` are each seed's last ones.
    """

    seeds: tuple[int, ...]
    steps: int
    seconds: float
    stages: Mapping[str, float]
    exit: float
    steps_per_s: float
    peak_mb: float
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class RunsReport(BenchReport[RunsRow]):
    """A row of each process: of single runs, then of the seeds at once."""

    bench = "runs"

    times: float | None = None
    """How many times the runs an hour of single ones the seeds at once are."""

    def settle(self) -> None:
        """Set `times`."""
        alone, together = self._kinds()
        if alone and together:
            one = statistics.fmean(row.seconds for row in alone)
            self.times = len(together[-1].seeds) * one / together[-1].seconds

    def table(self) -> str:
        """Return the figures as lines of text."""
        alone, together = self._kinds()
        lines = [self.heading()]
        if not alone or not together:
            return "\n".join([*lines, "nothing was measured to its end"])
        last, count = together[-1], len(together[-1].seeds)
        measured = "1 measured" if len(alone) == 1 else f"mean of {len(alone)}"
        lines += [
            f"{last.steps:,} steps a run; in seconds, each in a process of its own; single runs: {measured}",
            f"{'':<16} {'one run':>10} {f'{count} in turn':>10} {f'{count} at once':>10} {'times':>6}",
        ]
        for name in [*last.stages, "seconds"]:
            one = statistics.fmean(_seconds(row, name) for row in alone)
            all_in_turn, at_once = count * one, _seconds(last, name)
            times = f"{all_in_turn / at_once:.2f}" if at_once else "-"
            label = "whole" if name == "seconds" else name
            lines.append(f"{label:<16} {one:>10.2f} {all_in_turn:>10.2f} {at_once:>10.2f} {times:>6}")
        rate, runs = statistics.fmean(row.steps_per_s for row in alone), statistics.fmean(row.seconds for row in alone)
        lines += [
            f"{'runs an hour':<16} {3600 / runs:>10.1f} {'':>10} {3600 * count / last.seconds:>10.1f}",
            f"{'steps/s, all':<16} {rate:>10,.0f} {'':>10} {count * last.steps_per_s:>10,.0f}",
            f"{'peak MB':<16} {max(row.peak_mb for row in alone):>10,.0f} {'':>10} {last.peak_mb:>10,.0f}",
        ]
        return "\n".join(lines)

    def _kinds(self) -> tuple[list[RunsRow], list[RunsRow]]:
        return [row for row in self.rows if len(row.seeds) == 1], [row for row in self.rows if len(row.seeds) > 1]


def _seconds(row: RunsRow, name: str) -> float:
    return row.seconds if name == "seconds" else row.stages.get(name, 0.0)


def protocol(*, gpu: bool, quick: bool = False, steps: int | None = None) -> RunSpec:
    """Return what is run: the paper's protocol, fewer steps and lengths of it where it is to be quick, a tiny run on a CPU.

    Evaluations and checkpoints are 25 in any case, where there are as many steps.
    """
    if gpu:
        count = steps or (4096 if quick else 204800)
        lengths = tuple(length for length in _LENGTHS if length <= 4096) if quick else _LENGTHS
        # Gu & Dao 2023 (arXiv 2312.00752), E.1; what is inferred of it: app/presets/paper/table-11.toml
        model = ModelSpec(d_model=64, n_layer=2, dt_rank=16, n_heads=8, tie_embeddings=False)
        task, log_every, batches = InductionHeadsSpec(seqlen=256, vocab=16), 128, 32
    else:
        count, lengths, log_every, batches = steps or (16 if quick else 256), (16, 64), 8, 2
        model = ModelSpec(d_model=16, n_layer=2, dt_rank=2, tie_embeddings=False)
        task = InductionHeadsSpec(seqlen=32, vocab=8)
    every = max(1, count // 25)
    train = TrainSpec(
        steps=count,
        batch_size=8,
        lr=1e-3,
        beta2=0.999,
        clip_grad_norm=0.0,
        log_every=log_every,
        eval_every=every,
        eval_batches=batches,
        eval_lengths=lengths,
        checkpoint_every=every,
        device="cuda" if gpu else "cpu",
    )
    return RunSpec(model=model, task=task, train=train)


def run_bench(
    at_once: int = AT_ONCE,
    alone: int = 1,
    *,
    steps: int | None = None,
    quick: bool = False,
    commit: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[RunsReport], None] = lambda _: None,
) -> RunsReport:
    """Measure `alone` single runs, each of another seed, and then the seeds 0 to `at_once` - 1 in one process.

    Args:
        steps: of each run; the protocol's by default.
        quick: the quick protocol.
        commit: what is measured; asked of git by default.
        progress: told what is about to be measured.
        keep: given the report after each process, so that what ends the benchmark takes nothing with it.

    Raises:
        ValueError: fewer than two at once, no single run, or more of them than are at once.
        RunsError: a run failed.
    """
    if at_once < 2:
        raise ValueError(f"at least 2 runs are trained at once, got {at_once}")
    if not 1 <= alone <= at_once:
        raise ValueError(f"1 to {at_once} single runs are measured, as many as are trained at once, got {alone}")
    if steps is not None and steps < 1:
        raise ValueError(f"a run takes at least 1 step, got {steps}")
    gpu = torch.cuda.is_available()
    report = RunsReport.begin("cuda" if gpu else "cpu", commit)
    spec = protocol(gpu=gpu, quick=quick, steps=steps)
    for seeds in [*((seed,) for seed in range(alone)), tuple(range(at_once))]:
        progress(f"seed {seeds[0]} alone" if len(seeds) == 1 else f"{len(seeds)} seeds at once")
        report.rows.append(measure(spec, seeds))
        report.settle()
        keep(report)
    return report


def measure(spec: RunSpec, seeds: tuple[int, ...]) -> RunsRow:
    """Train a spec with these seeds in a new process, as one run or as an ensemble, and return what it took.

    Raises:
        RunsError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="mambalab-bench-") as folder:
        answer = Path(folder) / "answer.json"
        began = time.time()
        asked = {"spec": spec.model_dump(mode="json"), "seeds": seeds, "began": began, "answer": str(answer)}
        done = subprocess.run(
            [sys.executable, "-m", _MODULE], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
        gone = time.time()
        if done.returncode or not answer.is_file():
            said = done.stderr.strip().splitlines() or ["nothing"]
            raise RunsError(f"the process of seeds {seeds} ended with code {done.returncode} and said: {said[-1]}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return RunsRow(seeds, spec.train.steps, exit=gone - began - found["seconds"], **found)


def _serve(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Train what is asked for in this process; return the figures of a row that it knows.

    Raises:
        Exception: what the first of the runs failed with.
    """
    seeds: Sequence[int] = asked["seeds"]
    specs = [RunSpec.model_validate({**asked["spec"], "seed": seed}, strict=False) for seed in seeds]
    sinks = [MemorySink() for _ in seeds]
    folder = Path(asked["answer"]).parent
    contexts = [
        RunContext(f"seed-{seed}", 1, folder / f"seed-{seed}", sink, began=asked["began"])
        for seed, sink in zip(seeds, sinks, strict=True)
    ]
    ended = [run_trial(specs[0], contexts[0])] if len(seeds) == 1 else run_ensemble(specs, contexts)
    metrics: dict[str, dict[str, float]] = {}
    for seed, one in zip(seeds, ended, strict=True):
        if not isinstance(one, RunResult):
            raise one
        metrics[str(seed)] = {key: value for key, value in one.metrics.items() if key.startswith("valid/")}
    # each member's fact counts the seconds of all; who ends last knows them all
    stages: dict[str, Any] = max((sink.facts("stages")[-1] for sink in sinks), key=lambda fact: fact["whole"])
    return {
        "seconds": stages.pop("whole"),
        "stages": stages,
        "steps_per_s": statistics.median(sinks[0].series("train/steps_per_s").values()),
        "peak_mb": max(sinks[0].series("system/peak_memory_mb").values()),
        "metrics": metrics,
    }


def main() -> int:
    """A measured process: what to train on stdin, the figures in the file named there."""
    asked = json.load(sys.stdin)
    Path(asked["answer"]).write_text(json.dumps(_serve(asked)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
