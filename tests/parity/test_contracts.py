"""What torch asks of an operator, for every op on a GPU: CUDA graphs, compilation in one graph, autocast, opcheck, same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.bench.problems import (
    Problem,
    causal_conv1d_problem,
    causal_conv1d_update_problem,
    complex_scan_problem,
    rms_norm_problem,
    selective_scan_problem,
    selective_state_update_problem,
    token_loss_problem,
)
from kernels.bench.verify import draw_cotangents, evaluate, repeats_bitwise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SCAN = {"batch": 2, "seqlen": 70, "d_inner": 34, "d_state": 16}
SPLIT = {"batch": 1, "seqlen": 2048, "d_inner": 2048, "d_state": 16}
"""Few channels and many positions: the sequence is split across programs, three launches instead of one."""
CONV = {"batch": 2, "seqlen": 133, "d": 131}
Make = Callable[[torch.dtype], Problem]

PROBLEMS: dict[str, Make] = {
    "scan": lambda dtype: selective_scan_problem(SCAN, dtype, "cuda", initial_state=True),
    "scan-reset": lambda dtype: selective_scan_problem(SCAN, dtype, "cuda", initial_state=True, reset=True),
    "scan-split": lambda dtype: selective_scan_problem(SPLIT, dtype, "cuda"),
    "scan-complex": lambda dtype: complex_scan_problem(SCAN, dtype, "cuda", initial_state=True, reset=True),
    "conv": lambda dtype: causal_conv1d_problem({**CONV, "width": 4}, dtype, "cuda", initial_state=True, reset=True),
    "conv-wide": lambda dtype: causal_conv1d_problem(
        {**CONV, "width": 9}, dtype, "cuda", initial_state=True, reset=True
    ),
    "norm": lambda dtype: rms_norm_problem({"batch": 1, "seqlen": 77, "d": 64}, dtype, "cuda", residual=False),
    "norm-residual": lambda dtype: rms_norm_problem({"batch": 1, "seqlen": 77, "d": 64}, dtype, "cuda"),
    "state-update": lambda dtype: selective_state_update_problem(
        {"batch": 3, "d_inner": 258, "d_state": 16}, dtype, "cuda"
    ),
    "token-loss": lambda dtype: token_loss_problem({"rows": 150, "vocab_size": 21, "members": 3}, dtype, "cuda"),
    "conv-update": lambda dtype: causal_conv1d_update_problem({"batch": 3, "d": 515, "width": 4}, dtype, "cuda"),
}
OPS = {
    "selective_scan_forward", "selective_scan_backward", "selective_scan_backward_spending", "causal_conv1d",
    "causal_conv1d_backward", "rms_norm", "rms_norm_backward", "selective_state_update", "causal_conv1d_update", "token_loss",
}  # fmt: skip
"""Every op that the problems use, so that one that is added must be checked too."""

every_problem = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
small_problems = pytest.mark.parametrize(
    "make",
    [make for name, make in PROBLEMS.items() if name != "scan-split"],
    ids=[n for n in PROBLEMS if n != "scan-split"],
)


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@every_problem
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_five_runs_give_the_same_bits(make: Make, dtype: torch.dtype) -> None:
    assert repeats_bitwise(make(dtype))


@every_problem
def test_captured_in_a_cuda_graph_with_its_backward(make: Make) -> None:
    """The graph is replayed on other values than it was captured with."""
    problem, other = make(torch.bfloat16), make(torch.bfloat16)
    for name in ("x", "z", "state", "initial_state", "weight", "logits"):
        if name in other.tensors:
            other.tensors[name].mul_(-0.5)
    seeds = draw_cotangents(problem)
    expected = evaluate(other, "triton", seeds)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        evaluate(problem, "triton", seeds)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = evaluate(problem, "triton", seeds)
    for name, tensor in problem.tensors.items():
        tensor.copy_(other.tensors[name])
    for _ in range(2):
        graph.replay()
    compare(captured, expected)


@small_problems
def test_compiled_in_one_graph(make: Make) -> None:
    problem = make(torch.bfloat16)
    expected = evaluate(problem, "triton", draw_cotangents(problem))
    torch.compiler.reset()

    def outputs(tensors: dict[str, Tensor]) -> Any:
        return problem.function(**tensors, **problem.options, implementation="triton")

    compiled = torch.compile(outputs, backend="aot_eager", fullgraph=True)
    tensors = {name: tensor.clone() for name, tensor in problem.tensors.items()}
    leaves = [tensors[name].requires_grad_() for name in problem.differentiable]
    result = compiled(tensors)
    values = [result] if isinstance(result, Tensor) else list(result)
    found = dict(zip(problem.outputs, values, strict=True)) | {name: tensors[name] for name in problem.mutated}
    if leaves:
        seeds = [draw_cotangents(problem)[name] for name in problem.outputs]
        gradients = torch.autograd.grad(values, leaves, seeds)
        found |= {f"d{name}": gradient for name, gradient in zip(problem.differentiable, gradients, strict=True)}
    compare(found, expected)


@small_problems
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(make: Make, dtype: torch.dtype) -> None:
    """The ops take the dtypes that they are given; autocast must not cast the decay rates or the residual stream down."""
    problem = make(dtype)
    seeds = draw_cotangents(problem)
    expected = evaluate(problem, "triton", seeds)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        compare(evaluate(problem, "triton", seeds), expected)


@small_problems
def test_opcheck(make: Make) -> None:
    """Of the forward and the backward op, with the arguments that a real call gives them."""
    problem = make(torch.float32)
    with recorded_calls() as calls:
        evaluate(problem, "triton", draw_cotangents(problem))
    assert len(calls) == (2 if problem.differentiable else 1)
    for op, arguments in calls:
        name = op.name().removeprefix("mambalab::")
        assert name in OPS
        differentiated = bool(problem.differentiable) and not name.endswith("backward")
        torch.library.opcheck(op, tuple(_own(value, differentiated) for value in arguments))
        if name == "selective_scan_backward":  # under a mode, such as the recorder, this one runs
            spending = torch.ops.mambalab.selective_scan_backward_spending.default
            torch.library.opcheck(spending, tuple(_own(value, False) for value in arguments))


def test_no_op_is_left_out() -> None:
    for make in PROBLEMS.values():
        problem = make(torch.float32)
        evaluate(problem, "triton", draw_cotangents(problem))
    known = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("mambalab::")}
    assert known == {f"mambalab::{name}" for name in OPS}


def _own(value: Any, differentiated: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(differentiated and value.is_floating_point())


@contextmanager
def recorded_calls() -> Iterator[list[tuple[Any, tuple[Any, ...]]]]:
    """Collect the calls of this project's ops."""
    calls: list[tuple[Any, tuple[Any, ...]]] = []

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name().startswith("mambalab::"):
                calls.append((func, tuple(value.clone() if isinstance(value, Tensor) else value for value in args)))
            return func(*args, **(kwargs or {}))

    with Recorder():  # type: ignore[no-untyped-call]
        yield calls
