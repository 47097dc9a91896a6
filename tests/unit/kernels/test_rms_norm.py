"""The norm with its residual addition: by hand, gradients, properties, dtypes, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from kernels.common import ShapeError, UnsupportedError
from kernels.common.choice import Implementation
from kernels.rms_norm import rms_norm

drawn = settings(deadline=None, max_examples=40)
both = pytest.mark.parametrize("implementation", ["reference", "torch"])
SHAPES = [(1,), (7,), (3, 5), (2, 3, 4), (1, 1, 1), (2, 1, 3, 2)]


def arguments(shape: tuple[int, ...], *, residual: bool, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(len(shape))

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(dtype)

    made = {"x": normal(*shape), "weight": normal(shape[-1])}
    return {**made, "residual": normal(*shape)} if residual else made


def gradients(implementation: Implementation, given: dict[str, Any], eps: float = 1e-5) -> dict[str, Tensor]:
    inputs = {name: value.detach().clone().requires_grad_() for name, value in given.items()}
    out = rms_norm(**inputs, eps=eps, implementation=implementation)
    generator = torch.Generator().manual_seed(0)
    loss = sum((part * torch.randn(part.shape, generator=generator).bfloat16().to(part.dtype)).sum() for part in out)
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, list(inputs.values()))
    return {"y": out.y.detach(), "stream": out.residual.detach(), **dict(zip(inputs, grads, strict=True))}


@both
def test_a_row_by_hand(implementation: Implementation) -> None:
    """(1, 2) + (2, 2) = (3, 4), whose mean square is 12.5; with eps = 3.5 the root is 4."""
    out = rms_norm(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([8.0, -2.0]),
        residual=torch.tensor([[2.0, 2.0]]),
        eps=3.5,
        implementation=implementation,
    )
    assert out.residual.tolist() == [[3.0, 4.0]]
    torch.testing.assert_close(out.y, torch.tensor([[6.0, -2.0]]))


@both
@pytest.mark.parametrize("residual", [False, True], ids=["first", "residual"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_finite_differences(
    shape: tuple[int, ...], residual: bool, implementation: Implementation
) -> None:
    given = arguments(shape, residual=residual)

    def norm(*values: Tensor) -> tuple[Tensor, ...]:
        inputs: dict[str, Any] = dict(zip(given, values, strict=True))
        return tuple(rms_norm(**inputs, implementation=implementation))

    assert torch.autograd.gradcheck(norm, [value.requires_grad_() for value in given.values()])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_plain_form_and_torchs_own_norm_are_the_reference(shape: tuple[int, ...]) -> None:
    given = arguments(shape, residual=True)
    got, expected = gradients("torch", given), gradients("reference", given)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-13, msg=name)
    stream = given["x"] + given["residual"]
    torch.testing.assert_close(expected["y"], F.rms_norm(stream, shape[-1:], given["weight"], 1e-5))


@drawn
@given(
    rows=st.integers(1, 9), d=st.integers(1, 40), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]), residual=st.booleans()
)
def test_so_it_is_for_drawn_sizes(rows: int, d: int, scale: float, residual: bool) -> None:
    given = arguments((rows, d), residual=residual)
    given["x"] = given["x"] * scale
    got, expected = gradients("torch", given), gradients("reference", given)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-11, atol=1e-11, msg=name)


@both
def test_rows_do_not_see_each_other(implementation: Implementation) -> None:
    given = arguments((6, 5), residual=True)
    order = [3, 1, 5]
    whole = rms_norm(**given, implementation=implementation)
    some = rms_norm(
        given["x"][order], given["weight"], residual=given["residual"][order], implementation=implementation
    )
    torch.testing.assert_close(some.y, whole.y[order], rtol=0, atol=1e-15)


@both
def test_the_scale_of_a_row_does_not_matter(implementation: Implementation) -> None:
    given = arguments((4, 8), residual=False)
    first = rms_norm(given["x"], given["weight"], eps=0.0, implementation=implementation).y
    second = rms_norm(2.0**40 * given["x"], given["weight"], eps=0.0, implementation=implementation).y
    torch.testing.assert_close(first, second, rtol=1e-14, atol=0)


@both
def test_rows_of_zeros_have_finite_gradients(implementation: Implementation) -> None:
    given = {"x": torch.zeros(2, 3), "weight": torch.ones(3)}
    got = gradients(implementation, given)
    assert not got["y"].any()
    assert all(value.isfinite().all() for value in got.values())


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("residual", [False, True], ids=["first", "residual"])
def test_half_precision_rounds_once(implementation: Implementation, dtype: torch.dtype, residual: bool) -> None:
    """The stream is fp32 even at the first layer; half a unit in the last place is 2^-8 or 2^-11."""
    half_unit = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    given = arguments((3, 20, 16), residual=residual, dtype=torch.float32)
    given["x"] = given["x"].to(dtype)
    got = gradients(implementation, given)
    expected = gradients("reference", {name: value.double() for name, value in given.items()})
    assert [got[name].dtype for name in ("y", "x", "stream", "weight")] == [dtype, dtype, torch.float32, torch.float32]
    for name, value in expected.items():
        bound = half_unit if got[name].dtype == dtype else 1e-6
        assert (got[name].double() - value).abs().max() <= bound * value.abs().max(), name


@both
def test_autocast_changes_nothing(implementation: Implementation) -> None:
    given = arguments((3, 20, 16), residual=True, dtype=torch.float32)
    expected = gradients(implementation, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(implementation, given)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@both
def test_strides_do_not_matter(implementation: Implementation) -> None:
    given = arguments((3, 4, 5), residual=True)
    strided = {name: value.repeat_interleave(2, -1)[..., ::2] for name, value in given.items()}
    assert not strided["x"].is_contiguous()
    got, expected = gradients(implementation, strided), gradients(implementation, given)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-14, msg=name)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(())}, ShapeError, r"x must have shape \(..., d\), got a scalar"),
        ({"x": torch.zeros(2, 0, 3)}, ShapeError, r"x must have dimension 1 >= 1, got dimension 1=0"),
        ({"x": torch.zeros(2, 3).long()}, UnsupportedError, r"x must have dtype .*, got int64"),
        ({"weight": torch.zeros(4)}, ShapeError, r"weight must have shape \(d=3\), got \(4,\)"),
        ({"residual": torch.zeros(3, 2)}, ShapeError, r"residual must have the shape of x, \(2, 3\), got \(3, 2\)"),
        ({"eps": -1.0}, UnsupportedError, r"eps must be a number >= 0, got -1.0"),
        ({"eps": float("nan")}, UnsupportedError, r"eps must be a number >= 0, got nan"),
        ({"weight": torch.zeros(3, device="meta")}, UnsupportedError, r"weight is on meta but x is on cpu"),
    ],
)
def test_errors_name_the_argument(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"rms_norm: {message}"):
        rms_norm(**{"x": torch.zeros(2, 3), "weight": torch.zeros(3), **changed})
