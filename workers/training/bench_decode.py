"""How fast a 130M model generates, token by token: ours, and `mamba_ssm`'s where it is installed.

Greedy decoding from the state that Mamba keeps, so that every token costs the same. On a GPU weights are bf16 (decay rates, D, the
bias of dt and states stay fp32 in ours) and a token is one replay of a CUDA graph, or eager. Run it as `mambalab bench decode`
or `python -m workers.training.bench_decode --out FILE`.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.models import build_model
from workers.specs import InductionHeadsSpec, ModelSpec, RunSpec, TrainSpec
from workers.training import bench_official
from workers.training.bench_report import BenchReport

VOCAB_SIZE = 50280
BATCHES = (1, 8, 32, 128)

_WARM_UP, _LAPS = 3, 5

Step = Callable[[Tensor], Tensor]
"""Takes a token of each sequence, (batch,), and returns the logits after it, (batch, vocab_size); keeps the state."""


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """What one subject reaches at one batch size."""

    subject: str
    batch: int
    mode: str
    tokens_per_s: float
    p20: float
    p80: float
    milliseconds: float
    peak_mb: float | None


@dataclass(slots=True)
class DecodeReport(BenchReport[DecodeRow]):
    """What every subject reaches."""

    bench = "decode"

    def table(self) -> str:
        """Return the figures as lines of text."""
        lines = [self.heading()]
        lines.append(f"{'subject':<12} {'batch':>5} {'mode':<9} {'tokens/s':>10} {'ms a token':>10} {'peak MB':>8}")
        for row in self.rows:
            peak = "-" if row.peak_mb is None else f"{row.peak_mb:,.0f}"
            head = f"{row.subject:<12} {row.batch:>5} {row.mode:<9}"
            lines.append(f"{head} {row.tokens_per_s:>10,.0f} {row.milliseconds:>10.3f} {peak:>8}")
        return "\n".join(lines)


def run_bench(
    batches: Sequence[int] = BATCHES,
    *,
    model: ModelSpec | None = None,
    vocab_size: int = VOCAB_SIZE,
    budget_s: float = 0.5,
    commit: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> DecodeReport:
    """Generate with every subject at every batch size for about `budget_s` each; the model of 130M unless another is given."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = model or ModelSpec(d_model=768, n_layer=24)
    report = DecodeReport.begin(device, commit)
    makes = {"mambalab": _ours}
    if device == "cuda" and bench_official.installed():
        makes[bench_official.NAME] = _official
    for batch in batches:
        for subject, make in makes.items():
            for captured in (True, False) if device == "cuda" else (False,):
                progress(f"batch {batch}: {subject}, {'captured' if captured else 'eager'}")
                report.rows.append(_measure(subject, make(spec, vocab_size, batch, device), batch, captured, budget_s))
    return report


@torch.inference_mode()
def _measure(
    subject: str, decoder: tuple[Step, torch.device], batch: int, captured: bool, budget_s: float
) -> DecodeRow:
    step, device = decoder
    gpu = device.type == "cuda"
    tokens = torch.zeros(batch, dtype=torch.int64, device=device)

    def generate() -> None:
        tokens.copy_(step(tokens).argmax(-1))

    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(_WARM_UP):
        generate()
    take: Callable[[], object] = generate
    if captured:
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            generate()
        take = graph.replay
    count = max(1, round(budget_s / _LAPS / _lap(take, 1, device)))
    laps = [_lap(take, count, device) for _ in range(_LAPS)]
    fifths = statistics.quantiles(laps, n=5, method="inclusive")
    middle = statistics.median(laps)
    return DecodeRow(
        subject,
        batch,
        mode="captured" if captured else "eager",
        tokens_per_s=batch / middle,
        p20=batch / fifths[3],
        p80=batch / fifths[0],
        milliseconds=middle * 1e3,
        peak_mb=torch.cuda.max_memory_allocated(device) / 2**20 if gpu else None,
    )


def _lap(take: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the seconds of a token, of so many."""
    started = time.perf_counter()
    for _ in range(count):
        take()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / count


def _ours(spec: ModelSpec, vocab_size: int, batch: int, device: str) -> tuple[Step, torch.device]:
    torch.manual_seed(0)
    with torch.device(device):
        model = build_model(spec, vocab_size).eval()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("dt_weight"):
            parameter.data = parameter.data.to(dtype)
    state = model.allocate_state(batch, dtype=dtype)

    def step(tokens: Tensor) -> Tensor:
        return model.step(tokens, state)[0]

    return step, torch.device(device)


def _official(spec: ModelSpec, vocab_size: int, batch: int, device: str) -> tuple[Step, torch.device]:
    generation: Any = importlib.import_module("mamba_ssm.utils.generation")
    torch.manual_seed(0)
    train, task = TrainSpec(steps=1, batch_size=batch), InductionHeadsSpec(seqlen=64)
    with torch.device(device):
        model: Any = bench_official.build(RunSpec(model=spec, task=task, train=train), vocab_size)
    model = model.to(torch.bfloat16).eval()
    cache = model.allocate_inference_cache(batch, 1, dtype=torch.bfloat16)
    # an offset that is not 0 asks for the decode step
    inference = generation.InferenceParams(
        max_seqlen=1, max_batch_size=batch, seqlen_offset=1, key_value_memory_dict=cache
    )

    def step(tokens: Tensor) -> Tensor:
        logits: Tensor = model(tokens[:, None], inference_params=inference, num_last_tokens=1).logits
        return logits[:, 0]

    return step, torch.device(device)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: the table on stdout, the JSON in a file."""
    parser = argparse.ArgumentParser(prog="python -m workers.training.bench_decode", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the JSON report here")
    parser.add_argument("--batch", action="append", type=int, dest="batches", help="only this batch (may be repeated)")
    parser.add_argument("--commit", help="the commit to record, where git cannot be asked")
    options = parser.parse_args(arguments)
    report = run_bench(options.batches or BATCHES, commit=options.commit)
    sys.stdout.write(report.table() + "\n")
    if options.out is not None:
        report.write(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
