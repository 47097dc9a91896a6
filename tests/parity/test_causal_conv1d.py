"""The Triton convolution on a GPU: every output and gradient against float64, in every dtype."""

import pytest
import torch

from kernels.bench.problems import Problem, causal_conv1d_problem, causal_conv1d_update_problem
from kernels.bench.verify import parity, repeats_bitwise
from kernels.causal_conv1d import causal_conv1d

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
@pytest.mark.parametrize("width", [2, 3, 4, 8, 9, 31])
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


def test_opcheck() -> None:
    tensors = problem(4, torch.float32, initial_state=True, reset=True).tensors
    leaves = [tensors[name].detach().requires_grad_() for name in ("x", "weight", "bias", "initial_state")]
    torch.library.opcheck(torch.ops.mambalab.causal_conv1d.default, (*leaves, tensors["reset"], True))


def test_under_autocast_and_compiled_in_one_graph() -> None:
    tensors = problem(4, torch.bfloat16).tensors

    def run(x: torch.Tensor) -> torch.Tensor:
        return causal_conv1d(x, tensors["weight"], tensors["bias"], activation="silu").y

    with torch.autocast("cuda", dtype=torch.bfloat16):
        compiled = torch.compile(run, backend="aot_eager", fullgraph=True)(tensors["x"])
    assert compiled.dtype == torch.bfloat16
    assert torch.equal(compiled, run(tensors["x"]))


def test_captured_in_a_cuda_graph_with_its_backward() -> None:
    tensors = problem(4, torch.bfloat16).tensors
    x, weight = tensors["x"].requires_grad_(), tensors["weight"].requires_grad_()

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(causal_conv1d(x, weight, activation="silu").y.float().sum(), (x, weight))

    expected = gradients()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        gradients()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients()
    graph.replay()
    assert all(torch.equal(*pair) for pair in zip(captured, expected, strict=True))
