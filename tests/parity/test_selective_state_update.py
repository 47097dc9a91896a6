"""The Triton decode step of the scan on a GPU, against float64, in every dtype."""

import pytest
import torch

from kernels.bench.problems import Problem, selective_state_update_problem
from kernels.bench.verify import parity, repeats_bitwise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(dtype: torch.dtype, *, batch: int = 3, d_inner: int = 258, d_state: int = 16, ngroups: int = 0) -> Problem:
    sizes = {"batch": batch, "d_inner": d_inner, "d_state": d_state}
    return selective_state_update_problem(sizes, dtype, "cuda", ngroups=ngroups)


@pytest.mark.parametrize("ngroups", [0, 2, 258])
@pytest.mark.parametrize("d_state", [1, 16, 65, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_reference(dtype: torch.dtype, d_state: int, ngroups: int) -> None:
    for row in parity(problem(dtype, d_state=d_state, ngroups=ngroups)):
        assert row.passed, row


@pytest.mark.parametrize("batch", [1, 70_000])
def test_any_batch(batch: int) -> None:
    for row in parity(problem(torch.bfloat16, batch=batch, d_inner=33)):
        assert row.passed, row


def test_strided_views() -> None:
    for row in parity(problem(torch.bfloat16, ngroups=2).strided()):
        assert row.passed, row


def test_same_bits_every_time() -> None:
    assert repeats_bitwise(problem(torch.bfloat16, batch=64))
