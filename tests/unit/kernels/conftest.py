"""What all tests of the ops need: reproducible numbers and memory that does not happen to hold zeros."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels.common import choice


@pytest.fixture(scope="module", autouse=True)
def _memory_filled_with_nan() -> Iterator[None]:
    """While algorithms must be deterministic, torch fills what `torch.empty` returns with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1000).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def used() -> Iterator[None]:
    """Start and end with nothing recorded as having run."""
    choice.reset_used()
    yield
    choice.reset_used()
