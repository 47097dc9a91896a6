"""What the sample store's ablations ask for: grids over two axes, with the spec of a real run."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any

from storage.encoding import dumps
from storage.records import NewAblation, NewProvenance, NewRun

SEEDS = (0, 1, 2)
STEPS = 2000
AXES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("model.inner", ("s4d", "s6")),
    ("model.d_state", (4, 8, 16, 32)),
)
RUNS_PER_ABLATION = len(SEEDS) * math.prod(len(values) for _, values in AXES)
QUESTIONS = (
    ("selective-copying", "Does selection matter where the spacing is random?"),
    ("induction-heads", "Which inner layer recalls what followed the special token?"),
    ("state-size", "How much state does selective copying need?"),
    ("copying", "Does the time-invariant layer solve the control?"),
)
PROVENANCE = NewProvenance(
    command="mambalab submit selective-copying",
    directory="/home/ada/mambalab",
    hostname="laptop",
    python="3.12.4",
    versions={"torch": "2.13.0", "ray": "2.60.0", "mambalab": "0.1.0"},
    git_sha="4f1c2d9a8b7e6f5d4c3b2a190817263544332211",
    git_dirty=False,
)


def single_run(index: int) -> NewRun:
    """Return a run that belongs to no ablation."""
    return _run(f"single-{index}", {}, index, 0, "")


def study(index: int) -> tuple[NewAblation, list[NewRun]]:
    """Return the ablation of that number and its runs, trial by trial within each seed."""
    name, question = QUESTIONS[index % len(QUESTIONS)]
    axes = [title for title, _ in AXES]
    numbered = name if index < len(QUESTIONS) else f"{name}-{index // len(QUESTIONS) + 1}"
    ablation = NewAblation(
        name=numbered,
        question=question,
        spec={
            "name": numbered,
            "question": question,
            "seeds": list(SEEDS),
            "metric": {"key": "valid/accuracy", "direction": "max", "also": ["valid/loss"]},
            "baseline": {"model": {"inner": "s6", "d_state": 16}, "train": {"steps": STEPS}},
            "axes": [{"key": title, "values": list(values)} for title, values in AXES],
        },
        metric="valid/accuracy",
        direction="max",
        secondary=("valid/loss",),
        axes=axes,
        seeds=SEEDS,
    )
    trials = list(itertools.product(*(values for _, values in AXES)))
    runs = [
        _run(numbered, dict(zip(axes, values, strict=True)), seed, trial, " · ".join(map(str, values)))
        for seed in SEEDS
        for trial, values in enumerate(trials)
    ]
    return ablation, runs


def _run(name: str, values: dict[str, Any], seed: int, trial: int, label: str) -> NewRun:
    spec = _spec(values.get("model.inner", "s6"), values.get("model.d_state", 16), seed)
    return NewRun(
        name=name,
        spec=spec,
        spec_hash=hashlib.sha256(dumps(spec).encode()).hexdigest(),
        trial_index=trial,
        trial_label=label,
        axis_values=values,
        axis_labels={axis: str(value) for axis, value in values.items()},
        seed=seed,
        max_attempts=3,
        total_steps=STEPS,
    )


def _spec(inner: str, d_state: int, seed: int) -> dict[str, Any]:
    return {
        "model": {
            "mixer": "mamba",
            "inner": inner,
            "d_model": 64,
            "n_layer": 2,
            "expand": 2,
            "d_state": d_state,
            "d_conv": 4,
            "gate": True,
            "skip": True,
            "dt_rank": "auto",
            "dt_min": 0.001,
            "dt_max": 0.1,
            "selective_dt": True,
            "selective_b": True,
            "selective_c": True,
            "a_init": "lin",
            "s4d_init": "lin",
            "s4d_mode": "convolution",
            "n_heads": 8,
            "positions": "rope",
            "mlp_ratio": 0,
            "dropout": 0.0,
            "tie_embeddings": True,
            "norm_eps": 1e-05,
            "implementation": "auto",
        },
        "task": {"name": "selective-copying", "context": 112, "memorize": 16, "vocab": 16},
        "train": {
            "steps": STEPS,
            "batch_size": 32,
            "lr": 0.001,
            "schedule": "constant",
            "warmup_steps": 0,
            "min_lr": 0.0,
            "beta1": 0.9,
            "beta2": 0.95,
            "weight_decay": 0.0,
            "clip_grad_norm": 1.0,
            "precision": "auto",
            "device": "auto",
            "threads": 0,
            "log_every": 10,
            "eval_every": 0,
            "eval_batches": 16,
            "eval_batch_size": 0,
            "checkpoint_every": 0,
            "keep_checkpoints": 2,
            "stop_at": None,
            "stop_metric": "valid/accuracy",
        },
        "resources": {"cpus": 1.0, "gpus": "auto", "timeout_s": None, "max_attempts": 3},
        "seed": seed,
    }
