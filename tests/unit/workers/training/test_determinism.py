"""Seeds are split by purpose, and a run leaves the process as it found it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workers.errors import CheckpointError
from workers.training.determinism import (
    capture_random_state,
    derive_seed,
    reproducible,
    restore_random_state,
    seed_global,
)
from workers.training.precision import Placement

CPU = torch.device("cpu")


def test_derived_seeds_never_change_between_versions() -> None:
    assert derive_seed(0, "init") == 0x1514D1F1485CB8AE
    assert derive_seed(3, "data", 17) == 0x2BE29210B3EE567E


def test_derived_seeds_differ_by_seed_purpose_and_step() -> None:
    seeds = {derive_seed(seed, purpose, step) for seed in range(20) for purpose in ("data", "x") for step in range(20)}
    assert len(seeds) == 20 * 2 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_random_state_survives_its_text() -> None:
    with torch.random.fork_rng(devices=[]):
        seed_global(5, "dropout")
        torch.rand(3)
        state = capture_random_state(CPU)
        expected = torch.rand(10)
        seed_global(6, "dropout")
        restore_random_state(state, CPU)
        assert torch.equal(torch.rand(10), expected)


@pytest.mark.parametrize(
    "state", [{}, {"cpu": "zz", "cuda": ""}, {"cpu": "00", "cuda": ""}], ids=["empty", "text", "short"]
)
def test_a_broken_random_state_is_named(state: dict[str, str]) -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(CheckpointError, match="random state"):
        restore_random_state(state, CPU)


def test_the_process_keeps_its_own_settings_and_random_numbers() -> None:
    before = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
    )
    with reproducible(Placement(CPU, before[0] + 1, "fp32", "test")):
        torch.manual_seed(1)
        assert torch.get_num_threads() == before[0] + 1
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.are_deterministic_algorithms_enabled()
        switches: Any = torch.utils.deterministic
        assert not switches.fill_uninitialized_memory
    after = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
    )
    assert after == before
