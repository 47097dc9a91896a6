"""The Triton ops under `torch.vmap`, on Triton's interpreter: each member of an ensemble gets what it gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.causal_conv1d import causal_conv1d
from kernels.common.errors import UnsupportedError
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan
from tests.unit.kernels.members import check_members, conv_inputs, norm_inputs, scan_inputs
from workers.specs import RunSpec
from workers.training import MemorySink, RunContext, RunResult, run_trial
from workers.training.ensemble import run_ensemble

pytestmark = pytest.mark.interpreter


@pytest.mark.parametrize("groups", [0, 2])
def test_selective_scan(groups: int) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, dt_softplus=True, implementation="triton")

    check_members(op, scan_inputs(2, 2, 11, 4, 3, groups=groups, dtype=torch.float32))


def test_selective_scan_of_constants_with_a_state_and_resets() -> None:
    inputs = scan_inputs(2, 1, 9, 4, 3, dtype=torch.float32)
    inputs |= {"dt": torch.randn(2, 4), "B": torch.randn(2, 4, 3), "C": torch.randn(2, 1, 9, 2, 3)}
    inputs["initial_state"] = torch.randn(2, 1, 4, 3)
    reset = torch.rand(1, 9) < 0.2

    def op(**values: Any) -> tuple[Tensor, ...]:
        return selective_scan(**values, reset=reset, dt_softplus=True, implementation="triton")

    check_members(op, inputs)


def test_selective_scan_with_groups_of_one_kind_alone() -> None:
    inputs = scan_inputs(2, 1, 9, 4, 3, dtype=torch.float32)
    inputs["C"] = torch.randn(2, 1, 9, 2, 3)
    shared = {"B": inputs.pop("B")[0], "D": inputs.pop("D")[0]}

    def op(**values: Any) -> tuple[Tensor, ...]:
        return selective_scan(**values, dt_softplus=True, implementation="triton")

    check_members(op, inputs, shared)


@pytest.mark.parametrize("width", [4, 11])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal_conv1d(width: int, activation: Any) -> None:
    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return causal_conv1d(**inputs, activation=activation, implementation="triton")

    inputs = conv_inputs(2, 1, 13, 5, width, dtype=torch.float32)
    check_members(op, inputs)
    check_members(op, {**inputs, "initial_state": torch.randn(2, 1, width - 1, 5)})
    check_members(op, {"x": inputs["x"]}, {"weight": inputs["weight"][0]})


@pytest.mark.parametrize("d", [5, 700])
def test_rms_norm(d: int) -> None:
    """Rows of one member that do not fill their last tile must not reach into the next one's."""

    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return rms_norm(**inputs, implementation="triton")

    inputs = norm_inputs(2, 1, 5, d, dtype=torch.float32)
    check_members(op, inputs)
    check_members(op, {name: inputs[name] for name in ("x", "weight")})
    check_members(op, {"x": inputs["x"]}, {"weight": inputs["weight"][0]})


def test_rms_norm_of_several_tiles_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.rms_norm.triton_op.BACKWARD_PROGRAMS", 2)

    def op(**inputs: Any) -> tuple[Tensor, ...]:
        return rms_norm(**inputs, implementation="triton")

    check_members(op, norm_inputs(2, 1, 5, 1100, dtype=torch.float32))


def test_an_ensemble_is_its_runs_alone(tmp_path: Path) -> None:
    """The rules and kernels inside whole training steps."""
    specs = [
        RunSpec.model_validate(
            {
                "model": {"d_model": 8, "n_layer": 1, "d_state": 2, "implementation": "triton"},
                "task": {"name": "induction-heads", "seqlen": 8, "vocab": 4},
                "train": {"steps": 2, "batch_size": 1, "log_every": 1, "eval_batches": 1, "device": "cpu"},
                "seed": seed,
            }
        )
        for seed in range(2)
    ]
    sinks = [MemorySink() for _ in range(4)]
    contexts = [RunContext(str(index), 1, tmp_path / str(index), sink) for index, sink in enumerate(sinks)]
    ended = run_ensemble(specs, contexts[:2])
    assert all(isinstance(one, RunResult) for one in ended), ended
    for index, spec in enumerate(specs):
        run_trial(spec, contexts[2 + index])
        for key in ("train/loss", "train/grad_norm", "valid/loss"):
            assert sinks[index].series(key) == pytest.approx(sinks[2 + index].series(key), rel=1e-4)
    (used,) = sinks[0].facts("implementation")
    assert used["selective_scan"] == ["triton"]


def test_resets_of_a_member_alone_are_refused() -> None:
    resets = torch.zeros(2, 1, 5, dtype=torch.bool)
    scan, conv = scan_inputs(2, 1, 5, 2, 2, dtype=torch.float32), conv_inputs(2, 1, 5, 2, 3, dtype=torch.float32)
    with pytest.raises(UnsupportedError, match="share their resets"):
        torch.vmap(
            lambda x, dt, A, B, C, reset: selective_scan(x, dt, A, B, C, reset=reset, implementation="triton").y
        )(scan["x"], scan["dt"], scan["A"], scan["B"], scan["C"], resets)
    with pytest.raises(UnsupportedError, match="share their resets"):
        torch.vmap(lambda x, weight, reset: causal_conv1d(x, weight, reset=reset, implementation="triton").y)(
            conv["x"], conv["weight"], resets
        )
