"""The Triton decode step of the scan on Triton's interpreter, against float64."""

import pytest
import torch

from kernels.bench.problems import Problem, selective_state_update_problem
from kernels.bench.verify import parity, repeats_bitwise
from kernels.common.errors import UnsupportedError
from kernels.selective_state_update import selective_state_update

pytestmark = pytest.mark.interpreter

OPTIONAL = ("D", "z", "dt_bias")


def problem(d_inner: int = 6, d_state: int = 5, *, batch: int = 3, ngroups: int = 0) -> Problem:
    sizes = {"batch": batch, "d_inner": d_inner, "d_state": d_state}
    return selective_state_update_problem(sizes, torch.float32, "cpu", ngroups=ngroups)


@pytest.mark.parametrize("ngroups", [0, 1, 2, 6])
def test_matches_the_reference_for_any_groups(ngroups: int) -> None:
    for row in parity(problem(ngroups=ngroups)):
        assert row.passed, row


@pytest.mark.parametrize("d_state", [1, 16, 65, 256])
def test_any_number_of_states(d_state: int) -> None:
    for row in parity(problem(d_inner=37, d_state=d_state, batch=2)):
        assert row.passed, row


def test_strided_views() -> None:
    for row in parity(problem(d_inner=9, ngroups=3).strided()):
        assert row.passed, row


@pytest.mark.parametrize("absent", OPTIONAL)
def test_optional_arguments(absent: str) -> None:
    whole = problem()
    fewer = {name: tensor for name, tensor in whole.tensors.items() if name != absent}
    bare = Problem(
        whole.op,
        absent,
        whole.dtype,
        fewer,
        whole.function,
        whole.outputs,
        {"dt_softplus": absent == "z"},
        whole.mutated,
    )
    for row in parity(bare):
        assert row.passed, row


def test_constant_step_and_constant_b() -> None:
    whole = problem()
    constant = whole.tensors | {"dt": whole.tensors["dt"][0], "B": torch.randn(6, 5).expand(3, 6, 5)}
    step = Problem(
        whole.op, "constant", whole.dtype, constant, whole.function, whole.outputs, whole.options, whole.mutated
    )
    for row in parity(step):
        assert row.passed, row


@pytest.mark.parametrize("raw", [-9.2, -20.0, 19.9, 20.1, 90.0])
def test_softplus_keeps_small_steps_exact(raw: float) -> None:
    tensors = problem().tensors
    one = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    one |= {
        "dt": torch.full_like(tensors["dt"], raw),
        "A": torch.zeros_like(tensors["A"]),
        "state": torch.zeros_like(tensors["state"]),
    }
    one |= {"dt_bias": torch.zeros_like(tensors["dt_bias"])}
    selective_state_update(**one, dt_softplus=True, implementation="triton")
    expected = torch.nn.functional.softplus(torch.tensor(raw, dtype=torch.float64), threshold=40)
    torch.testing.assert_close(one["state"].double(), expected.expand(3, 6, 5), rtol=1e-6, atol=0)


def test_same_bits_every_time() -> None:
    assert repeats_bitwise(problem(d_inner=40))


def test_a_wanted_gradient_is_refused() -> None:
    tensors = problem().tensors
    tensors["x"].requires_grad_()
    with pytest.raises(UnsupportedError, match="x requires a gradient"):
        selective_state_update(**tensors, implementation="triton")  # type: ignore[arg-type]


def test_opcheck() -> None:
    tensors = problem().tensors
    names = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    torch.library.opcheck(torch.ops.mambalab.selective_state_update.default, (*(tensors[name] for name in names), True))


def test_compiles_into_one_graph() -> None:
    tensors = problem().tensors
    expected = {name: tensor.clone() for name, tensor in tensors.items()}

    def step(**arguments: torch.Tensor) -> torch.Tensor:
        return selective_state_update(**arguments, dt_softplus=True, implementation="triton")

    y = torch.compile(step, backend="aot_eager", fullgraph=True)(**tensors)
    torch.testing.assert_close(y, step(**expected))
    torch.testing.assert_close(tensors["state"], expected["state"])
