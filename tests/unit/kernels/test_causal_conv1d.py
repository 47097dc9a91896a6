"""The causal convolution: by hand, gradients, properties, dtypes; decode steps; errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.causal_conv1d import ConvOutput, causal_conv1d, causal_conv1d_update
from kernels.common import ShapeError, UnsupportedError
from kernels.common.choice import Implementation

drawn = settings(deadline=None, max_examples=40)
both = pytest.mark.parametrize("implementation", ["reference", "torch"])
implementations = st.sampled_from(["reference", "torch"])


@dataclass(frozen=True)
class Case:
    batch: int = 2
    seqlen: int = 5
    d: int = 3
    width: int = 4
    bias: bool = True
    silu: bool = True
    initial: bool = True
    resets: bool = False

    def arguments(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        return {
            "x": normal(self.batch, self.seqlen, self.d),
            "weight": normal(self.d, self.width),
            "bias": normal(self.d) if self.bias else None,
            "activation": "silu" if self.silu else None,
            "initial_state": normal(self.batch, self.width - 1, self.d) if self.initial else None,
            "reset": torch.rand(self.batch, self.seqlen, generator=generator) < 0.3 if self.resets else None,
        }


CASES = {
    "all": Case(),
    "bare": Case(bias=False, silu=False, initial=False),
    "resets": Case(resets=True, seqlen=7),
    "resets-without-state": Case(resets=True, initial=False, seqlen=7),
    "width-2": Case(width=2),
    "shorter-than-the-filter": Case(seqlen=2, width=6, initial=False),
    "shorter-with-state": Case(seqlen=2, width=6),
    "shorter-with-resets": Case(seqlen=2, width=6, resets=True),
    "one-of-each": Case(batch=1, seqlen=1, d=1, width=2, initial=False),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
cases = st.builds(
    Case,
    batch=st.integers(1, 3),
    seqlen=st.integers(1, 12),
    d=st.integers(1, 5),
    width=st.integers(2, 7),
    bias=st.booleans(),
    silu=st.booleans(),
    initial=st.booleans(),
    resets=st.booleans(),
)


def tensors(arguments: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: value.detach().clone().requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.dtype != torch.bool
    }


def gradients(implementation: Implementation, arguments: dict[str, Any]) -> dict[str, Tensor]:
    inputs = tensors(arguments)
    out = causal_conv1d(**{**arguments, **inputs}, implementation=implementation)
    generator = torch.Generator().manual_seed(0)
    loss = sum((part * torch.randn(part.shape, generator=generator).bfloat16().to(part.dtype)).sum() for part in out)
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, list(inputs.values()))
    return {"y": out.y.detach(), "final_state": out.final_state.detach(), **dict(zip(inputs, grads, strict=True))}


def assert_same(got: ConvOutput, y: Tensor, final_state: Tensor) -> None:
    torch.testing.assert_close(got.y, y, rtol=0, atol=1e-13)
    assert torch.equal(got.final_state, final_state)


@both
def test_three_positions_by_hand(implementation: Implementation) -> None:
    """The filter (1, 10, 100) over 0, 4 | 1, 2, 3 with a bias of 1000: the last weight meets the current position."""
    out = causal_conv1d(
        torch.tensor([[[1.0], [2.0], [3.0]]]),
        torch.tensor([[1.0, 10.0, 100.0]]),
        torch.tensor([1000.0]),
        initial_state=torch.tensor([[[0.0], [4.0]]]),
        implementation=implementation,
    )
    assert out.y.flatten().tolist() == [1140.0, 1214.0, 1321.0]
    assert out.final_state.flatten().tolist() == [2.0, 3.0]


@both
def test_a_reset_hides_the_past_also_from_the_final_state(implementation: Implementation) -> None:
    out = causal_conv1d(
        torch.tensor([[[1.0], [2.0], [3.0]]]),
        torch.tensor([[1.0, 10.0, 100.0]]),
        initial_state=torch.tensor([[[0.0], [4.0]]]),
        reset=torch.tensor([[False, False, True]]),
        implementation=implementation,
    )
    assert out.y.flatten().tolist() == [140.0, 214.0, 300.0]
    assert out.final_state.flatten().tolist() == [0.0, 3.0]


@both
def test_silu_comes_last(implementation: Implementation) -> None:
    out = causal_conv1d(
        torch.ones(1, 1, 1, dtype=torch.float64),
        torch.tensor([[7.0, 2.0]], dtype=torch.float64),
        torch.tensor([-1.0], dtype=torch.float64),
        activation="silu",
        implementation=implementation,
    )
    torch.testing.assert_close(out.y.flatten(), torch.tensor([0.7310585786300049], dtype=torch.float64))


@every_case
def test_the_plain_form_and_its_gradients_are_the_references(case: Case) -> None:
    arguments = case.arguments()
    got, expected = gradients("torch", arguments), gradients("reference", arguments)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-13, msg=name)


@drawn
@given(cases, st.integers(0, 2**16))
def test_so_they_are_for_drawn_sizes(case: Case, seed: int) -> None:
    arguments = case.arguments(seed)
    got, expected = gradients("torch", arguments), gradients("reference", arguments)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-12, msg=name)


@both
@every_case
def test_gradients_are_those_of_finite_differences(case: Case, implementation: Implementation) -> None:
    arguments = case.arguments()
    inputs = tensors(arguments)

    def convolve(*values: Tensor) -> tuple[Tensor, Tensor]:
        out = causal_conv1d(**{**arguments, **dict(zip(inputs, values, strict=True))}, implementation=implementation)
        return out.y, out.final_state

    assert torch.autograd.gradcheck(convolve, list(inputs.values()))


@drawn
@given(cases, implementations, st.data())
def test_two_halves_make_the_whole(case: Case, implementation: Implementation, data: st.DataObject) -> None:
    arguments = case.arguments()
    middle = data.draw(st.integers(1, case.seqlen))
    whole = causal_conv1d(**arguments, implementation=implementation)
    pieces: list[ConvOutput] = []
    for piece in (slice(middle), slice(middle, None)):
        if not arguments["x"][:, piece].numel():
            continue
        reset = None if arguments["reset"] is None else arguments["reset"][:, piece]
        state = pieces[0].final_state if pieces else arguments["initial_state"]
        part = {**arguments, "x": arguments["x"][:, piece], "reset": reset, "initial_state": state}
        pieces.append(causal_conv1d(**part, implementation=implementation))
    assert_same(whole, torch.cat([piece.y for piece in pieces], dim=1), pieces[-1].final_state)


@drawn
@given(cases, implementations, st.data())
def test_a_reset_makes_two_sequences(case: Case, implementation: Implementation, data: st.DataObject) -> None:
    arguments = {**case.arguments(), "reset": torch.zeros(case.batch, case.seqlen, dtype=torch.bool)}
    start = data.draw(st.integers(0, case.seqlen - 1))
    arguments["reset"][:, start] = True
    packed = causal_conv1d(**arguments, implementation=implementation)
    alone = {**arguments, "reset": None}
    second = causal_conv1d(
        **{**alone, "x": arguments["x"][:, start:], "initial_state": None}, implementation=implementation
    )
    ys = [causal_conv1d(**{**alone, "x": arguments["x"][:, :start]}, implementation=implementation).y] if start else []
    assert_same(packed, torch.cat((*ys, second.y), dim=1), second.final_state)


@drawn
@given(cases, implementations, st.data())
def test_no_output_depends_on_what_comes_later(case: Case, implementation: Implementation, data: st.DataObject) -> None:
    arguments = case.arguments()
    now = data.draw(st.integers(0, case.seqlen - 1))
    changed = arguments["x"].clone()
    changed[:, now] += 1
    first = causal_conv1d(**arguments, implementation=implementation).y
    second = causal_conv1d(**{**arguments, "x": changed}, implementation=implementation).y
    assert torch.equal(first[:, :now], second[:, :now])
    assert not torch.equal(first[:, now], second[:, now])


@drawn
@given(cases, implementations)
def test_decode_steps_are_the_convolution(case: Case, implementation: Implementation) -> None:
    arguments = {**case.arguments(), "reset": None}
    expected = causal_conv1d(**arguments)
    state = torch.zeros(case.batch, case.width - 1, case.d, dtype=torch.float64)
    state = state if arguments["initial_state"] is None else arguments["initial_state"].clone()
    ys = [
        causal_conv1d_update(
            state,
            arguments["x"][:, t],
            arguments["weight"],
            arguments["bias"],
            activation=arguments["activation"],
            implementation=implementation,
        )
        for t in range(case.seqlen)
    ]
    assert_same(expected, torch.stack(ys, dim=1), state)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_rounds_once(implementation: Implementation, dtype: torch.dtype) -> None:
    """Half a unit in the last place: 2^-8 or 2^-11 of the largest value; what stays fp32 is off by its own rounding."""
    half_unit = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    arguments = Case(seqlen=30).arguments(dtype=torch.float32)
    arguments["x"], arguments["initial_state"] = arguments["x"].to(dtype), arguments["initial_state"].to(dtype)
    exact = {name: value.double() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    got, expected = gradients(implementation, arguments), gradients("reference", exact)
    assert [got[name].dtype for name in ("y", "final_state", "x", "weight")] == [dtype, dtype, dtype, torch.float32]
    for name, value in expected.items():
        # A window is read once a tap, so the reference's part of dx from each is rounded by itself.
        roundings = 4 if implementation == "reference" and name in ("x", "initial_state") else 1
        bound = roundings * half_unit if got[name].dtype == dtype else 1e-6
        assert (got[name].double() - value).abs().max() <= bound * value.abs().max(), name


@both
def test_autocast_changes_nothing(implementation: Implementation) -> None:
    arguments = Case().arguments(dtype=torch.float32)
    expected = gradients(implementation, arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(implementation, arguments)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@both
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("seqlen", [3, 5])
def test_the_final_state_is_no_view_of_the_input(batch: int, seqlen: int, implementation: Implementation) -> None:
    """It is updated in place afterwards, which must not write into x."""
    arguments = Case(batch=batch, seqlen=seqlen, initial=False).arguments()
    before = arguments["x"].clone()
    causal_conv1d(**arguments, implementation=implementation).final_state.fill_(7)
    assert torch.equal(arguments["x"], before)


@both
def test_strides_do_not_matter(implementation: Implementation) -> None:
    arguments = Case(resets=True).arguments()
    strided = {
        name: value.repeat_interleave(2, -1)[..., ::2] if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }
    assert not strided["x"].is_contiguous()
    got, expected = gradients(implementation, strided), gradients(implementation, arguments)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_decode_step_passes_gradients_on() -> None:
    arguments = Case(initial=False).arguments()
    weight = arguments["weight"].requires_grad_()
    state = torch.zeros(2, 3, 3, dtype=torch.float64)
    ys = [causal_conv1d_update(state, arguments["x"][:, t], weight) for t in range(5)]
    (got,) = torch.autograd.grad(torch.stack(ys, dim=1).square().sum(), weight)
    (expected,) = torch.autograd.grad(causal_conv1d(arguments["x"], weight).y.square().sum(), weight)
    torch.testing.assert_close(got, expected)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": zeros(2, 5)}, ShapeError, r"x must have shape \(batch, seqlen, d\), got \(2, 5\)"),
        ({"x": zeros(2, 0, 3)}, ShapeError, r"x must have seqlen >= 1, got seqlen=0"),
        ({"x": zeros(2, 5, 3).int()}, UnsupportedError, r"x must have dtype float16 or .*, got int32"),
        ({"weight": zeros(4, 4)}, ShapeError, r"weight must have shape \(d=3, width=4\), got \(4, 4\)"),
        ({"weight": zeros(3, 1)}, ShapeError, r"weight must have width >= 2, got width=1"),
        ({"bias": zeros(4)}, ShapeError, r"bias must have shape \(d=3\), got \(4,\)"),
        ({"activation": "gelu"}, UnsupportedError, r"activation must be None or 'silu', got 'gelu'"),
        ({"initial_state": zeros(2, 4, 3)}, ShapeError, r"initial_state must have shape \(batch=2, width - 1=3, d=3\)"),
        ({"reset": zeros(2, 5)}, UnsupportedError, r"reset must have dtype bool, got float32"),
        ({"reset": zeros(2, 4).bool()}, ShapeError, r"reset must have shape \(batch=2, seqlen=5\), got \(2, 4\)"),
        ({"bias": torch.zeros(3, device="meta")}, UnsupportedError, r"bias is on meta but x is on cpu; move all"),
        (
            {"implementation": "chunked"},
            UnsupportedError,
            r"must be one of auto, reference, torch, triton, got 'chunked'",
        ),
    ],
)
def test_errors_name_the_argument(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"causal_conv1d: .*{message}"):
        causal_conv1d(**{"x": zeros(2, 5, 3), "weight": zeros(3, 4), **changed})


def test_errors_of_the_decode_step() -> None:
    with pytest.raises(ShapeError, match=r"x must have shape \(batch, d\), got \(2, 1, 3\)"):
        causal_conv1d_update(zeros(2, 3, 3), zeros(2, 1, 3), zeros(3, 4))
    with pytest.raises(ShapeError, match=r"state must have shape \(batch=2, width - 1=3, d=3\), got \(2, 4, 3\)"):
        causal_conv1d_update(zeros(2, 4, 3), zeros(2, 3), zeros(3, 4))
    with pytest.raises(UnsupportedError, match="state must have dtype bfloat16, got float32"):
        causal_conv1d_update(zeros(2, 3, 3), zeros(2, 3).bfloat16(), zeros(3, 4))
