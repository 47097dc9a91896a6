"""What a forward and a backward of the scan hold on a GPU at most, and that checkpoints outlive what may need them again."""

import pytest
import torch
from torch import Tensor

from kernels.bench.problems import Problem, selective_scan_problem
from kernels.bench.timing import peak_bytes
from kernels.selective_scan import selective_scan
from kernels.selective_scan.triton_bwd_plan import plan_backward
from kernels.selective_scan.triton_checkpoints import rows_over
from kernels.selective_scan.triton_op import (
    selective_scan_backward,
    selective_scan_backward_spending,
    selective_scan_forward,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def problem(batch: int, d_inner: int, seqlen: int, d_state: int = 16) -> tuple[Problem, list[Tensor]]:
    """The inputs in bf16 as Mamba draws them, and the leaves."""
    sizes = {"batch": batch, "d_inner": d_inner, "seqlen": seqlen, "d_state": d_state}
    given = selective_scan_problem(sizes, torch.bfloat16, "cuda")
    leaves = [tensor.detach().requires_grad_() for tensor in given.tensors.values()]
    return given, leaves


def output(given: Problem, leaves: list[Tensor]) -> Tensor:
    named = dict(zip(given.tensors, leaves, strict=True))
    return selective_scan(**named, dt_softplus=True, implementation="triton").y


@pytest.mark.parametrize(
    ("batch", "d_inner", "seqlen"), [(8, 2048, 2048), (8, 128, 256), (64, 128, 1024), (2, 128, 1100)], ids=str
)
def test_peak_of_forward_and_backward(batch: int, d_inner: int, seqlen: int) -> None:
    """No partial sums of dB and dC beside the outputs, checkpoints, B and C as read, and sums of dA (2048 channels: 33.5 MB).

    Sizes that the allocator does not round up: multiples of 2 MiB, or below 1 MiB.
    """
    given, leaves = problem(batch, d_inner, seqlen)

    def both() -> object:
        y = output(given, leaves)
        return torch.autograd.grad(y, leaves, torch.ones_like(y))

    both()  # compiles
    rows = 5 * 2 * batch * seqlen * d_inner  # y and the gradients of y, x, dt and z
    tiles = -(-seqlen // 32)
    checkpoints = 4 * batch * tiles * 16 * d_inner
    coefficients = 4 * batch * tiles * 16 * 2 * 32
    chunks = plan_backward(batch, seqlen, d_inner, 16, 1).chunks
    shared = seqlen % 32 == 0  # whole tiles: what is carried between chunks and the sums of dA take the same place
    sums = 4 * batch * chunks * d_inner * ((16 if shared else 32) + 2)
    small = 4 * 4 * 16 * d_inner + 32 * 512  # A as read and its gradient, vectors, rounding of allocations
    assert peak_bytes(both) < rows + checkpoints + coefficients + sums + small


def test_peak_with_gradients_over_the_checkpoints() -> None:
    """64 states: the gradients of x, dt and z take no memory beside y, its gradient and the checkpoints."""
    batch, d_inner, seqlen = 8, 2048, 512
    given, leaves = problem(batch, d_inner, seqlen, 64)

    def both() -> object:
        y = output(given, leaves)
        return torch.autograd.grad(y, leaves, torch.ones_like(y))

    both()  # compiles
    rows = 2 * 2 * batch * seqlen * d_inner
    tiles = seqlen // 32
    checkpoints = 4 * batch * tiles * 64 * d_inner
    coefficients = 4 * batch * tiles * 64 * 2 * 32
    scales = 4 * batch * tiles * (d_inner // 128) * 2 * 64
    assert plan_backward(batch, seqlen, d_inner, 64, 1).chunks == 1
    sums = 4 * batch * d_inner * (2 * 64 + 2)  # of dA, carries, dD and dt_bias
    small = 4 * 4 * 64 * d_inner + 32 * 512
    assert peak_bytes(both) < rows + checkpoints + coefficients + scales + sums + small


@pytest.mark.parametrize(
    "shape", [(8, 128, 256), (2, 128, 1100), (64, 128, 1024), (8, 128, 1024, 64), (8, 2048, 100, 64)], ids=str
)
def test_what_is_laid_over_the_checkpoints_is_the_same(shape: tuple[int, ...]) -> None:
    given, _ = problem(*shape)
    x, dt, A, B, C, D, z, bias = (given.tensors[name] for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias"))
    arguments = (x, dt, A, B, C, D, z, bias, True, None, None)
    y, _, checkpoints = selective_scan_forward(*arguments, True)
    kept = checkpoints.clone()
    apart = selective_scan_backward(torch.ones_like(y), None, *arguments, checkpoints)
    assert torch.equal(checkpoints, kept)
    over = list(selective_scan_backward_spending(torch.ones_like(y), None, *arguments, checkpoints))
    if checkpoints.dim() == 5:
        assert over[0].numel() == 0
        over[0], over[1], over[6] = (row for row in rows_over(checkpoints, (x, dt, z)) if row is not None)
    assert not torch.equal(checkpoints, kept), "the sums went elsewhere"
    assert all(torch.equal(*pair) for pair in zip(apart, over, strict=True))


@pytest.mark.parametrize("shape", [(8, 128, 256), (2, 128, 1100), (8, 128, 1024, 64)], ids=str)
def test_a_kept_graph_gives_the_same_gradients_again(shape: tuple[int, ...]) -> None:
    given, leaves = problem(*shape)
    y = output(given, leaves)
    found = [torch.autograd.grad(y, leaves, torch.ones_like(y), retain_graph=keep) for keep in (True, True, False)]
    for again in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], again, strict=True))


@pytest.mark.parametrize("shape", [(8, 128, 256), (8, 128, 1024, 64)], ids=str)
def test_a_captured_backward_may_be_replayed(shape: tuple[int, ...]) -> None:
    given, leaves = problem(*shape)
    # autograd runs a backward on the stream of its forward, which has to be the captured one
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y = output(given, leaves)
        slope = torch.ones_like(y)
        expected = torch.autograd.grad(y, leaves, slope, retain_graph=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = torch.autograd.grad(y, leaves, slope)
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
