"""Ensembles on a GPU: the Triton ops under `torch.vmap`, and members against their runs alone, captured and in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.causal_conv1d import causal_conv1d
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan
from tests.unit.kernels.members import check_members, conv_inputs, norm_inputs, scan_inputs
from workers.specs import RunSpec
from workers.training import MemorySink, RunContext, RunResult, run_trial
from workers.training.ensemble import run_ensemble

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float32, torch.bfloat16]
MEMBERS, STEPS = 4, 48


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_selective_scan(dtype: torch.dtype) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation="triton")

    check_members(op, scan_inputs(3, 2, 100, 64, 16, dtype=dtype, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_causal_conv1d(dtype: torch.dtype) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return causal_conv1d(**inputs, activation="silu", implementation="triton")

    check_members(op, conv_inputs(3, 2, 100, 48, 4, dtype=dtype, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rms_norm(dtype: torch.dtype) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return rms_norm(**inputs, implementation="triton")

    check_members(op, norm_inputs(3, 2, 100, 48, dtype=dtype, device="cuda"))


def member(seed: int, **train: Any) -> RunSpec:
    """Return a small run on the GPU."""
    return RunSpec.model_validate(
        {
            "model": {"d_model": 32, "n_layer": 2},
            "task": {"name": "induction-heads", "seqlen": 64, "vocab": 16},
            "train": {"steps": STEPS, "batch_size": 8, "log_every": 8, "eval_batches": 2, "device": "cuda", **train},
            "seed": seed,
        }
    )


def losses(sink: MemorySink) -> list[float]:
    return list(sink.series("train/loss").values())


def alone(folder: Path, seed: int, **train: Any) -> list[float]:
    sink = MemorySink()
    run_trial(member(seed, **train), RunContext("alone", 1, folder, sink))
    return losses(sink)


def together(folder: Path, **train: Any) -> list[MemorySink]:
    sinks = [MemorySink() for _ in range(MEMBERS)]
    contexts = [RunContext(str(seed), 1, folder / str(seed), sink) for seed, sink in enumerate(sinks)]
    ended = run_ensemble([member(seed, **train) for seed in range(MEMBERS)], contexts)
    assert all(isinstance(one, RunResult) for one in ended), ended
    return sinks


def test_members_are_their_runs_alone_in_fp32(tmp_path: Path) -> None:
    """Sums in matrix products differ in their order: some ten roundings of 2^-24 a step, which the steps carry on."""
    sinks = together(tmp_path, precision="fp32")
    for seed in range(MEMBERS):
        own = alone(tmp_path / f"alone-{seed}", seed, precision="fp32")
        assert losses(sinks[seed]) == pytest.approx(own, rel=1e-3)


def test_members_in_bf16_stay_as_close_to_their_runs_as_bf16_to_fp32(tmp_path: Path) -> None:
    sinks = together(tmp_path, precision="bf16")
    off, band = 0.0, 0.0
    for seed in range(MEMBERS):
        bf16, fp32 = (alone(tmp_path / f"{kind}-{seed}", seed, precision=kind) for kind in ("bf16", "fp32"))
        off = max(off, *(abs(a - b) for a, b in zip(losses(sinks[seed]), bf16, strict=True)))
        band = max(band, *(abs(a - b) for a, b in zip(bf16, fp32, strict=True)))
    assert off <= 2 * band


def test_captured_members_are_the_eager_ones_bit_for_bit(tmp_path: Path) -> None:
    eager = together(tmp_path / "eager", capture="off")
    captured = together(tmp_path / "captured", capture="on")
    assert [losses(sink) for sink in captured] == [losses(sink) for sink in eager]
    (fact,) = captured[0].facts("step")
    assert fact["mode"] == "captured"
