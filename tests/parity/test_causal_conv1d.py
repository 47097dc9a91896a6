"""The Triton convolution on a GPU: every output and gradient against float64, in every dtype."""

import pytest
import torch

from kernels.bench.problems import Problem, causal_conv1d_problem, causal_conv1d_update_problem
from kernels.bench.verify import parity, repeats_bitwise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(
    width: int,
    dtype: torch.dtype,
    *,
    batch: int = 2,
    seqlen: int = 133,
    d: int = 131,
    initial_state: bool = False,
    reset: bool = False,
) -> Problem:
    sizes = {"batch": batch, "seqlen": seqlen, "d": d, "width": width}
    return causal_conv1d_problem(sizes, dtype, "cuda", initial_state=initial_state, reset=reset)


@pytest.mark.parametrize("continued", [False, True], ids=["whole", "continued-packed"])
@pytest.mark.parametrize("width", [2, 3, 4, 8, 9, 31, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_reference(dtype: torch.dtype, width: int, continued: bool) -> None:
    for row in parity(problem(width, dtype, initial_state=continued, reset=continued)):
        assert row.passed, row


@pytest.mark.parametrize("sizes", ["1x1x1", "3x2x64", "1x2047x257", "1x2049x8", "70000x2x3"])
def test_odd_sizes(sizes: str) -> None:
    batch, seqlen, d = (int(size) for size in sizes.split("x"))
    for row in parity(problem(4, torch.bfloat16, batch=batch, seqlen=seqlen, d=d, initial_state=True)):
        assert row.passed, row


@pytest.mark.parametrize("width", [4, 9])
def test_strided_views(width: int) -> None:
    for row in parity(problem(width, torch.bfloat16, initial_state=True, reset=True).strided()):
        assert row.passed, row


@pytest.mark.parametrize("width", [2, 4, 9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decode_step(dtype: torch.dtype, width: int) -> None:
    step = causal_conv1d_update_problem({"batch": 3, "d": 515, "width": width}, dtype, "cuda")
    for row in parity(step) + parity(step.strided()):
        assert row.passed, row


@pytest.mark.parametrize("width", [4, 9])
def test_same_bits_every_time(width: int) -> None:
    assert repeats_bitwise(problem(width, torch.bfloat16, batch=8, seqlen=700, d=300, initial_state=True))
