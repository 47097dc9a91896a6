"""The Triton decode step of the scan on a GPU, against float64, in every dtype."""

import pytest
import torch

from kernels.bench.problems import Problem, selective_state_update_problem
from kernels.bench.verify import parity, repeats_bitwise
from kernels.selective_state_update import selective_state_update

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


def test_opcheck() -> None:
    tensors = problem(torch.float32).tensors
    names = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    torch.library.opcheck(torch.ops.mambalab.selective_state_update.default, (*(tensors[name] for name in names), True))


def test_captured_in_a_cuda_graph() -> None:
    tensors = problem(torch.bfloat16).tensors
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    for _ in range(3):
        y = selective_state_update(**expected, dt_softplus=True)  # type: ignore[arg-type]
    warm = {name: tensor.clone() for name, tensor in tensors.items()}
    selective_state_update(**warm, dt_softplus=True)  # type: ignore[arg-type]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = selective_state_update(**tensors, dt_softplus=True)  # type: ignore[arg-type]
    for _ in range(3):
        graph.replay()
    assert torch.equal(captured, y)
    assert torch.equal(tensors["state"], expected["state"])
