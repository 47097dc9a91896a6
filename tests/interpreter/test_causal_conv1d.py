"""The Triton convolution on Triton's interpreter: every output and gradient against float64."""

import pytest
import torch

from kernels.bench.problems import Problem, causal_conv1d_problem, causal_conv1d_update_problem
from kernels.bench.verify import parity, repeats_bitwise
from kernels.causal_conv1d import causal_conv1d, causal_conv1d_update, triton_op
from kernels.causal_conv1d.triton_op import FEW_ROWS, NARROW, WALKS, backward_cut, short_walks

pytestmark = pytest.mark.interpreter


def problem(
    width: int, *, batch: int = 2, seqlen: int = 13, d: int = 5, initial_state: bool = False, reset: bool = False
) -> Problem:
    sizes = {"batch": batch, "seqlen": seqlen, "d": d, "width": width}
    return causal_conv1d_problem(sizes, torch.float32, "cpu", initial_state=initial_state, reset=reset)


@pytest.mark.parametrize("reset", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("initial_state", [False, True], ids=["fresh", "continued"])
@pytest.mark.parametrize("width", [2, 3, 4, NARROW, NARROW + 1])
def test_matches_the_reference(width: int, initial_state: bool, reset: bool) -> None:
    for row in parity(problem(width, initial_state=initial_state, reset=reset)):
        assert row.passed, row


@pytest.mark.parametrize("width", [4, NARROW + 3])
@pytest.mark.parametrize("seqlen", [1, 2, 3])
def test_a_sequence_shorter_than_the_filter(width: int, seqlen: int) -> None:
    for row in parity(problem(width, seqlen=seqlen, initial_state=True, reset=True)):
        assert row.passed, row


@pytest.mark.parametrize("seqlen", [7, 8, 17, 32, 34])
@pytest.mark.parametrize("walks", [1, 2, WALKS])
def test_walks_and_programs_meet(seqlen: int, walks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_op, "WALKS", walks)
    cut = short_walks(1, seqlen, 3)
    assert cut.rows == FEW_ROWS
    assert (cut.chunks(seqlen) > 1) == (seqlen > FEW_ROWS * walks)
    for row in parity(problem(4, batch=1, seqlen=seqlen, d=3, initial_state=True, reset=True)):
        assert row.passed, row


@pytest.mark.parametrize("continued", [False, True], ids=["fresh", "continued"])
def test_long_walks_meet(continued: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_op, "MANY", 1)
    monkeypatch.setattr(triton_op, "LONG_ROWS", (16,))
    assert backward_cut(1, 75, 3, 4, continued) == ((WALKS, 16, 4), triton_op.LONG_STEPS)
    for row in parity(problem(4, batch=1, seqlen=75, d=3, initial_state=continued, reset=continued)):
        assert row.passed, row


def test_several_blocks_of_channels() -> None:
    for row in parity(problem(4, batch=1, seqlen=5, d=131)):
        assert row.passed, row


def test_without_bias_and_activation() -> None:
    plain = problem(4)
    tensors = {name: tensor for name, tensor in plain.tensors.items() if name != "bias"}
    bare = Problem("causal_conv1d", "bare", torch.float32, tensors, causal_conv1d, plain.outputs)
    for row in parity(bare):
        assert row.passed, row


@pytest.mark.parametrize("width", [4, NARROW + 1])
def test_strided_views(width: int) -> None:
    views = problem(width, initial_state=True, reset=True).strided()
    assert not any(tensor.is_contiguous() for tensor in views.tensors.values())
    for row in parity(views):
        assert row.passed, row


@pytest.mark.parametrize("width", [4, NARROW + 1])
@pytest.mark.parametrize("output", ["y", "final_state"])
def test_gradient_through_one_output_alone(width: int, output: str) -> None:
    sizes = problem(width, initial_state=True, reset=True)
    gradients = []
    for implementation in ("triton", "reference"):
        leaves = {name: tensor.clone() for name, tensor in sizes.tensors.items()}
        wanted = [leaves[name].requires_grad_() for name in ("x", "initial_state")]
        result = causal_conv1d(**leaves, activation="silu", implementation=implementation)
        gradients.append(torch.autograd.grad(getattr(result, output).square().sum(), wanted))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("width", [2, 4, NARROW + 1])
def test_decode_step(width: int) -> None:
    step = causal_conv1d_update_problem({"batch": 3, "d": 131, "width": width}, torch.float32, "cpu")
    for row in parity(step) + parity(step.strided()):
        assert row.passed, row


def test_decoding_continues_a_sequence() -> None:
    tensors = problem(4, seqlen=9).tensors
    x, weight, bias = tensors["x"], tensors["weight"], tensors["bias"]
    whole = causal_conv1d(x, weight, bias, activation="silu", implementation="triton")
    state = causal_conv1d(x[:, :6], weight, bias, activation="silu", implementation="triton").final_state
    for t in range(6, 9):
        y = causal_conv1d_update(state, x[:, t], weight, bias, activation="silu", implementation="triton")
        torch.testing.assert_close(y, whole.y[:, t])
    torch.testing.assert_close(state, whole.final_state)


def test_same_bits_every_time() -> None:
    assert repeats_bitwise(problem(4, seqlen=20, initial_state=True))


@pytest.mark.parametrize("width", [4, NARROW + 1])
def test_opcheck(width: int) -> None:
    tensors = problem(width, initial_state=True, reset=True).tensors
    names = ("x", "weight", "bias", "initial_state")
    leaves = [tensors[name].detach().requires_grad_() for name in names]
    torch.library.opcheck(torch.ops.mambalab.causal_conv1d.default, (*leaves, tensors["reset"], True))
    torch.library.opcheck(torch.ops.mambalab.causal_conv1d.default, (*leaves[:2], None, None, None, False))


def test_opcheck_of_the_decode_step() -> None:
    tensors = causal_conv1d_update_problem({"batch": 2, "d": 5, "width": 4}, torch.float32, "cpu").tensors
    arguments = tuple(tensors[name] for name in ("state", "x", "weight", "bias"))
    torch.library.opcheck(torch.ops.mambalab.causal_conv1d_update.default, (*arguments, True))


def test_compiles_into_one_graph() -> None:
    tensors = problem(4, initial_state=True).tensors
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}

    def loss(**arguments: torch.Tensor) -> torch.Tensor:
        result = causal_conv1d(**arguments, activation="silu", implementation="triton")
        return result.y.square().sum() + result.final_state.sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(**leaves), list(leaves.values()))
    torch.testing.assert_close(torch.autograd.grad(compiled(**leaves), list(leaves.values())), expected)


@pytest.mark.parametrize(
    ("batch", "seqlen", "d", "cut", "steps"),
    [(8, 2048, 2048, (4, 128, 64), 2), (64, 1024, 128, (4, 32, 64), 2), (2048, 1, 128, (1, 128, 64), 2), (8, 256, 1024, (4, 16, 64), 19),
     (8, 256, 128, (4, 8, 64), 11), (1, 10, 5, (2, 8, 8), 11)],
)  # fmt: skip
def test_walks_are_as_long_as_leaves_enough(batch: int, seqlen: int, d: int, cut: tuple[int, ...], steps: int) -> None:
    assert backward_cut(batch, seqlen, d, 4, False) == (cut, steps)
