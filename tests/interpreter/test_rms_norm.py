"""The Triton RMS norm on Triton's interpreter: every output and gradient against float64."""

import pytest
import torch

from kernels.bench.problems import Problem, rms_norm_problem
from kernels.bench.verify import parity, repeats_bitwise
from kernels.common.errors import UnsupportedError
from kernels.rms_norm import rms_norm
from kernels.rms_norm.triton_op import FORWARD_VALUES, MAX_D, tiling

pytestmark = pytest.mark.interpreter


def problem(d: int, *, batch: int = 2, seqlen: int = 5, residual: bool = True) -> Problem:
    return rms_norm_problem({"batch": batch, "seqlen": seqlen, "d": d}, torch.float32, "cpu", residual=residual)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("d", [1, 7, 64, 200, 2049])
def test_matches_the_reference(d: int, residual: bool) -> None:
    for row in parity(problem(d, residual=residual)):
        assert row.passed, row


def test_rows_that_do_not_fill_the_last_tile() -> None:
    assert tiling(700, FORWARD_VALUES).block_rows == 2
    for row in parity(problem(700, batch=1, seqlen=5)):
        assert row.passed, row


def test_several_tiles_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.rms_norm.triton_op.BACKWARD_PROGRAMS", 2)
    for row in parity(problem(1100, batch=1, seqlen=5)):
        assert row.passed, row


def test_partial_sums_in_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.common.triton_reduce.ROWS_IN_ONE_PASS", 2)
    monkeypatch.setattr("kernels.common.triton_reduce.ROWS_PER_GROUP", 3)
    for row in parity(problem(1025, batch=1, seqlen=7)):
        assert row.passed, row


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_strided_views(residual: bool) -> None:
    for row in parity(problem(33, residual=residual).strided()):
        assert row.passed, row


def test_vectors_and_many_leading_dimensions() -> None:
    for shape in ((6,), (2, 3, 1, 6)):
        x, weight = torch.randn(shape), torch.randn(6)
        expected = rms_norm(x, weight, implementation="reference")
        torch.testing.assert_close(rms_norm(x, weight, implementation="triton").y, expected.y)


@pytest.mark.parametrize("output", ["y", "residual"])
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_gradient_through_one_output_alone(residual: bool, output: str) -> None:
    tensors = problem(12, residual=residual).tensors
    gradients = []
    for implementation in ("triton", "reference"):
        leaves = {name: tensor.clone() for name, tensor in tensors.items()}
        wanted = [leaves[name].requires_grad_() for name in leaves if name != "weight"]
        result = rms_norm(**leaves, implementation=implementation)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(getattr(result, output).square().sum(), wanted))
    torch.testing.assert_close(*gradients)


def test_the_stream_is_the_norm_s_own_where_gradients_are_wanted() -> None:
    """So the gradient that comes back by it is added in the norm's kernel, not by autograd."""
    tensors = problem(12, residual=False).tensors
    x, weight = tensors["x"].requires_grad_(), tensors["weight"]
    out = rms_norm(x, weight, implementation="triton")
    assert out.residual.data_ptr() != x.data_ptr()
    assert out.residual.grad_fn is out.y.grad_fn
    assert torch.equal(out.residual, x)
    with torch.no_grad():
        assert rms_norm(x, weight, implementation="triton").residual.data_ptr() == x.data_ptr()


def test_half_precision_residual_gets_its_own_dtype_back() -> None:
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    residual = torch.randn(3, 8, dtype=torch.float16, requires_grad=True)
    total = rms_norm(x, weight, residual=residual, implementation="triton").y.sum()
    assert torch.autograd.grad(total, residual)[0].dtype == torch.float16


def test_rows_that_are_too_long_are_refused() -> None:
    x = torch.randn(1, MAX_D + 1)
    with pytest.raises(UnsupportedError, match=f"at most {MAX_D}"):
        rms_norm(x, torch.ones(MAX_D + 1), implementation="triton")


def test_same_bits_every_time() -> None:
    assert repeats_bitwise(problem(65, batch=9))


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_opcheck(residual: bool) -> None:
    leaves = {name: tensor.requires_grad_() for name, tensor in problem(6, residual=residual).tensors.items()}
    arguments = (leaves["x"], leaves["weight"], leaves.get("residual"), 1e-5)
    torch.library.opcheck(torch.ops.mambalab.rms_norm.default, arguments)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_compiles_into_one_graph(residual: bool) -> None:
    leaves = {name: tensor.requires_grad_() for name, tensor in problem(6, residual=residual).tensors.items()}

    def loss(**arguments: torch.Tensor) -> torch.Tensor:
        result = rms_norm(**arguments, implementation="triton")  # type: ignore[arg-type]
        return result.y.square().sum() + result.residual.sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(**leaves), list(leaves.values()))
    torch.testing.assert_close(torch.autograd.grad(compiled(**leaves), list(leaves.values())), expected)
