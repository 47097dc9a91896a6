"""The scan's values: by hand, against scalars in a loop, and the two plain implementations against each other."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor

from kernels.common import UnsupportedError
from kernels.common.choice import ScanImplementation
from kernels.selective_scan import ScanOutput, selective_scan
from tests.unit.kernels.scan_cases import (
    BLOCKS,
    CASES,
    Arguments,
    Blocks,
    ScanCase,
    assert_same,
    every_case,
    gradients,
    run,
)

both = pytest.mark.parametrize("implementation", ["reference", "chunked"])


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@both
def test_two_positions_by_hand(implementation: ScanImplementation) -> None:
    """exp(dt A) is 1/2 and then 1/4: h = 0.5 * 4 + 1 * 2 * 3 = 8, then 0.25 * 8 + 2 * 1 * 5 = 12."""
    out = selective_scan(
        tensor([[3.0], [5.0]]),
        tensor([[1.0], [2.0]]),
        tensor([-math.log(2)]),
        tensor([[2.0], [1.0]]),
        tensor([[1.0], [-1.0]]),
        D=tensor(10.0),
        initial_state=tensor([[4.0]]),
        implementation=implementation,
    )
    torch.testing.assert_close(out.y, tensor([[8.0 + 30.0], [-12.0 + 50.0]]), rtol=1e-15, atol=0)
    torch.testing.assert_close(out.final_state, tensor([[12.0]]), rtol=1e-15, atol=0)


@both
def test_the_gate_multiplies_last_and_a_reset_comes_before_the_update(implementation: ScanImplementation) -> None:
    """silu(1) = 1 / (1 + 1/e); at the reset only dt B x is left."""
    out = selective_scan(
        tensor([[3.0], [5.0]]),
        tensor([[1.0], [2.0]]),
        tensor([-math.log(2)]),
        tensor([[2.0], [1.0]]),
        tensor([[1.0], [1.0]]),
        z=tensor([[1.0], [1.0]]),
        reset=torch.tensor([[False, True]]),
        implementation=implementation,
    )
    silu = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(out.y, tensor([[6 * silu], [10 * silu]]), rtol=1e-15, atol=0)
    torch.testing.assert_close(out.final_state, tensor([[10.0]]), rtol=1e-15, atol=0)


@both
def test_complex_states_stand_for_conjugate_pairs(implementation: ScanImplementation) -> None:
    """A = i pi / 2 turns the state by a right angle: h = i * (1 + i) + 1 = i; y = 2 Re(C h) = 2 Re((2 - 3i) i) = 6."""
    out = selective_scan(
        tensor([[1.0]]),
        tensor([[1.0]]),
        torch.tensor([[1j * math.pi / 2]], dtype=torch.complex128),
        torch.tensor([[[1.0]]], dtype=torch.complex128),
        torch.tensor([[[2.0 - 3.0j]]], dtype=torch.complex128),
        initial_state=torch.tensor([[[1.0 + 1.0j]]], dtype=torch.complex128),
        implementation=implementation,
    )
    torch.testing.assert_close(out.y, tensor([[6.0]]), rtol=0, atol=1e-15)
    torch.testing.assert_close(out.final_state, torch.tensor([[[1.0j]]], dtype=torch.complex128), rtol=0, atol=1e-15)


def scan_in_scalars(case: ScanCase, arguments: Arguments) -> ScanOutput:
    """Compute what `selective_scan` documents with Python's numbers, one at a time."""
    read = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in arguments.items()}

    def state_input(name: str, groups: int, b: int, t: int, d: int) -> list[complex]:
        values = read[name]
        if groups < 0:
            found = values[d]
        elif groups == 0:
            found = values[b][t]
        else:
            found = values[b][t][d // (case.d_inner // groups)]
        assert isinstance(found, list)
        return found

    y = torch.zeros_like(arguments["x"])
    final = torch.zeros(case.batch, case.d_inner, case.d_state, dtype=arguments["A"].dtype)
    for b in range(case.batch):
        for d in range(case.d_inner):
            h: list[complex] = read["initial_state"][b][d] if case.initial else [0.0] * case.d_state
            for t in range(case.seqlen):
                step = (read["dt"][d] if case.constant_dt else read["dt"][b][t][d]) + (
                    read["dt_bias"][d] if case.bias else 0
                )
                step = math.log1p(math.exp(step)) if case.softplus else step
                x = read["x"][b][t][d]
                B, C = state_input("B", case.b_groups, b, t, d), state_input("C", case.c_groups, b, t, d)
                before = [0.0] * case.d_state if case.resets and read["reset"][b][t] else h
                h = [
                    cmath.exp(step * a) * old + step * x * k for a, old, k in zip(read["A"][d], before, B, strict=True)
                ]
                out = sum(c * state for c, state in zip(C, h, strict=True))
                out = (2 if case.is_complex else 1) * complex(out).real + (read["D"][d] * x if case.skip else 0)
                if case.gate:
                    out *= read["z"][b][t][d] / (1 + math.exp(-read["z"][b][t][d]))
                y[b, t, d] = out
            states = [state if case.is_complex else complex(state).real for state in h]
            final[b, d] = torch.tensor(states, dtype=final.dtype)
    return ScanOutput(y, final)


@every_case
def test_the_reference_is_the_documented_formula(case: ScanCase) -> None:
    arguments = case.arguments()
    got, expected = run(arguments, "reference"), scan_in_scalars(case, arguments)
    torch.testing.assert_close(got.y, expected.y, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.final_state, expected.final_state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
@every_case
def test_the_chunked_form_and_its_gradients_are_the_references(case: ScanCase, blocks: Blocks) -> None:
    arguments = case.arguments()
    with blocks.set():
        got = gradients("chunked", arguments)
    assert_same(got, gradients("reference", arguments))


@pytest.mark.parametrize("name", ["all", "resets", "constant-b-c", "complex"])
def test_a_long_sequence_with_the_cuts_that_are_used(name: str) -> None:
    """With the sizes that the module chose: 203 positions in 14 lanes, 7 left over."""
    arguments = CASES[name].with_(batch=2, seqlen=203, d_inner=6, d_state=3).arguments()
    assert_same(gradients("chunked", arguments), gradients("reference", arguments), tolerance=1e-10)


def test_a_large_batch_is_cut_too() -> None:
    """Five sequences, two at a time, sixteen positions at a time."""
    case = ScanCase(batch=5, seqlen=40)
    arguments = case.arguments()
    with Blocks(elements=2 * 16 * case.d_inner * case.d_state).set():
        got = gradients("chunked", arguments)
    assert_same(got, gradients("reference", arguments))


@both
@pytest.mark.parametrize("name", ["all", "two-groups", "constant-b-c", "complex"])
def test_strides_do_not_matter(name: str, implementation: ScanImplementation) -> None:
    arguments = CASES[name].arguments()

    def strided(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        spread = torch.full((*value.shape[:-1], 2 * value.shape[-1]), 7, dtype=value.dtype)
        view = spread[..., ::2].transpose(0, -1).contiguous().transpose(0, -1) if value.dim() > 1 else spread[::2]
        view.copy_(value)
        assert value.numel() < 2 or not view.is_contiguous()
        return view

    got = gradients(implementation, {name: strided(value) for name, value in arguments.items()})
    assert_same(got, gradients(implementation, arguments), tolerance=1e-13)


@both
def test_arguments_are_left_alone(implementation: ScanImplementation) -> None:
    arguments = CASES["resets"].arguments()
    copies = {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}
    out = run(arguments, implementation)
    out.final_state.fill_(float("nan"))
    out.y.fill_(float("nan"))
    for name, value in copies.items():
        assert torch.equal(arguments[name], value), name


def test_two_runs_are_bitwise_equal() -> None:
    arguments = ScanCase(batch=3, seqlen=100, d_inner=8).arguments(dtype=torch.float32)
    first, second = gradients("chunked", arguments), gradients("chunked", arguments)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_chunked_form_differentiates_once_and_says_so() -> None:
    arguments = CASES["bare"].arguments()
    x = arguments["x"].requires_grad_()
    (grad,) = torch.autograd.grad(run(arguments).y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_compiled_code_calls_the_chunked_form_as_it_is() -> None:
    arguments = CASES["all"].arguments()
    compiled = torch.compile(lambda x: run(arguments, x=2 * x).y + 1, backend="eager")
    torch.testing.assert_close(compiled(arguments["x"]), run(arguments, x=2 * arguments["x"]).y + 1)


def test_triton_is_refused_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        UnsupportedError, match="'triton' cannot run: the tensors are on cpu.*use 'chunked', 'reference'"
    ):
        selective_scan(**CASES["all"].arguments(), implementation="triton")
