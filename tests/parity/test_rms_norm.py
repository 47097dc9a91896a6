"""The Triton RMS norm on a GPU: every output and gradient against float64, in every dtype."""

import pytest
import torch

from kernels.bench.problems import Problem, rms_norm_problem
from kernels.bench.verify import parity, repeats_bitwise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(d: int, dtype: torch.dtype, *, rows: int = 77, residual: bool = True) -> Problem:
    return rms_norm_problem({"batch": 1, "seqlen": rows, "d": d}, dtype, "cuda", residual=residual)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("d", [1, 33, 64, 768, 2048, 5000, 16384])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_reference(dtype: torch.dtype, d: int, residual: bool) -> None:
    for row in parity(problem(d, dtype, residual=residual)):
        assert row.passed, row


@pytest.mark.parametrize("rows", [1, 3000, 100_001])
def test_any_number_of_rows(rows: int) -> None:
    for row in parity(problem(72, torch.bfloat16, rows=rows)):
        assert row.passed, row


def test_strided_views() -> None:
    for row in parity(problem(257, torch.bfloat16).strided()):
        assert row.passed, row


def test_same_bits_every_time() -> None:
    assert repeats_bitwise(problem(768, torch.bfloat16, rows=9000))
