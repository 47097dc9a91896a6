"""The Triton scan with complex A on a GPU: every output and gradient against float64, and that the same bits come again."""

import pytest
import torch
from torch import Tensor

from kernels.bench.problems import Problem, complex_scan_problem
from kernels.bench.verify import draw_cotangents, evaluate, parity, repeats_bitwise
from kernels.common import choice
from kernels.selective_scan.triton_complex_launch import ComplexPlan, plan_complex

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(
    dtype: torch.dtype = torch.bfloat16,
    *,
    batch: int = 2,
    seqlen: int = 70,
    d_inner: int = 34,
    d_state: int = 16,
    ngroups: int = 0,
    initial_state: bool = True,
    reset: bool = False,
) -> Problem:
    sizes = {"batch": batch, "seqlen": seqlen, "d_inner": d_inner, "d_state": d_state}
    return complex_scan_problem(sizes, dtype, "cuda", ngroups=ngroups, initial_state=initial_state, reset=reset)


def draw(name: str, *shape: int) -> Tensor:
    """Other values for an argument, from a seed of its own."""
    dtype = torch.float32 if name == "dt" else torch.complex64
    generator = torch.Generator("cuda").manual_seed(sum(map(ord, name)))
    return torch.randn(shape, generator=generator, device="cuda", dtype=dtype)


def check(given: Problem) -> None:
    """NaN in what the launcher allocates and does not write would show: `parity` fills it with NaN."""
    for row in parity(given):
        assert row.passed, row


@pytest.mark.parametrize("reset", [False, True], ids=["whole", "reset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_reference(dtype: torch.dtype, reset: bool) -> None:
    check(problem(dtype, reset=reset))


@pytest.mark.parametrize("seqlen", [1, 31, 2047, 2049])
def test_any_length(seqlen: int) -> None:
    """The long ones are split."""
    check(problem(torch.float32, seqlen=seqlen))


@pytest.mark.parametrize("d_inner", [1, 5, 129])
def test_any_number_of_channels(d_inner: int) -> None:
    check(problem(torch.float32, d_inner=d_inner, initial_state=False))


@pytest.mark.parametrize("d_state", [1, 3, 8, 20, 64, 256])
def test_any_number_of_states(d_state: int) -> None:
    check(problem(torch.bfloat16, seqlen=40, d_inner=8, d_state=d_state))


@pytest.mark.parametrize("reset", [False, True], ids=["whole", "reset"])
def test_groups(reset: bool) -> None:
    check(problem(torch.bfloat16, d_inner=12, ngroups=3, reset=reset))


def test_groups_of_two_sizes() -> None:
    given = problem(torch.float32, d_inner=12, ngroups=2)
    given.tensors["C"] = draw("C", 2, 70, 3, 16)
    check(given)


@pytest.mark.parametrize("constant", ["B", "C", "dt", "B C dt"])
def test_constants(constant: str) -> None:
    given = problem(torch.float32, d_inner=12, d_state=4)
    for name in constant.split():
        given.tensors[name] = draw(name, *((12,) if name == "dt" else (12, 4)))
    check(given)


def test_constants_of_many_states() -> None:
    given = problem(torch.float32, seqlen=40, d_inner=12, d_state=20)
    for name in "BC":
        given.tensors[name] = draw(name, 12, 20)
    given.tensors["dt"] = draw("dt", 12)
    check(given)


@pytest.mark.parametrize("real", ["B", "C", "B C initial_state"])
def test_what_may_be_real(real: str) -> None:
    given = problem(torch.bfloat16)
    for name in real.split():
        given.tensors[name] = given.tensors[name].real.to(torch.bfloat16 if name in "BC" else torch.float32)
    check(given)


@pytest.mark.parametrize("absent", ["D", "z", "dt_bias", "D z dt_bias"])
def test_without_options(absent: str) -> None:
    given = problem(torch.float32, initial_state=False)
    for name in absent.split():
        given.tensors.pop(name)
    check(given)


def test_tiny_steps_fast_decay_and_large_angles() -> None:
    slow = problem(torch.float32)
    slow.tensors["dt_bias"] = torch.full_like(slow.tensors["dt_bias"], -9.2)
    check(slow)
    fast = problem(torch.float32)
    fast.tensors["A"] = fast.tensors["A"] * 300
    check(fast)


def test_strided_views_and_conjugates() -> None:
    given = problem(torch.bfloat16).strided()
    given.tensors["B"] = given.tensors["B"].conj()
    check(given)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("warps", [1, 2, 4, 8])
def test_every_division_computes_the_same(warps: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ComplexPlan(2, warps, parts, {1: 9, 3: 3}[parts])
    for module in ("triton_complex_launch", "triton_complex_bwd_launch"):
        monkeypatch.setattr(f"kernels.selective_scan.{module}.plan_complex", lambda *sizes, **options: plan)
    check(problem(torch.float32, seqlen=257, d_inner=36, reset=parts == 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("seqlen", "d_state"), [(300, 16), (2049, 16), (300, 20)], ids=["whole", "split", "blocks"])
def test_five_runs_give_the_same_bits(seqlen: int, d_state: int, dtype: torch.dtype) -> None:
    assert (plan_complex(2, seqlen, 34, d_state, 1).parts > 1) == (seqlen == 2049)
    assert repeats_bitwise(problem(dtype, seqlen=seqlen, d_state=d_state))


def test_it_is_chosen_by_default_and_recorded() -> None:
    choice.reset_used()
    given = problem()
    evaluate(given, "auto", draw_cotangents(given))
    assert "triton" in choice.used()["selective_scan"]
    assert choice.layouts()["selective_scan"]["2x34x70x16 complex"]["lanes"] == "complex"
