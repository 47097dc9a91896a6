"""The Triton forward scan under the interpreter: it equals the float64 reference at sizes that divide nothing."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kernels.common import choice
from kernels.common.choice import ScanImplementation
from kernels.selective_scan import selective_scan
from kernels.selective_scan.reference import selective_scan_reference
from kernels.selective_scan.triton_launch import (
    CHECKPOINT_STEPS,
    Arguments,
    Shape,
    configuration,
    describe,
    scan_forward,
    serves,
)
from kernels.selective_scan.triton_layout import Configuration
from kernels.selective_scan.triton_op import refusal, selective_scan_forward, selective_scan_triton

pytestmark = pytest.mark.interpreter

FP32_TOLERANCE = 2e-6  # relative, of a norm; fp32 PyTorch reaches 3e-7 here
BF16_TOLERANCE = 2.0**-7  # the interpreter truncates to bf16, which costs one unit in the last place at most


@dataclass(frozen=True)
class Case:
    """Sizes and options of one scan; options are named where they are present."""

    batch: int = 2
    seqlen: int = 33
    d_inner: int = 5
    d_state: int = 3
    ngroups: int = 0
    options: str = "D z dt_bias"
    constant: str = ""
    config: Configuration | None = None
    dtype: torch.dtype = torch.float32
    """Of x, dt, B, C and z."""

    def build(self) -> Arguments:
        """Draw the arguments."""
        drawn = self._draw()
        return replace(
            drawn,
            x=drawn.x.to(self.dtype),
            dt=drawn.dt.to(self.dtype),
            B=drawn.B.to(self.dtype),
            C=drawn.C.to(self.dtype),
            z=None if drawn.z is None else drawn.z.to(self.dtype),
        )

    def _draw(self) -> Arguments:
        generator = torch.Generator().manual_seed(self.seqlen * 100 + self.d_inner)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        def maybe(name: str, value: Tensor) -> Tensor | None:
            return value if name in self.options.split() else None

        batch, seqlen, d_inner, d_state = self.batch, self.seqlen, self.d_inner, self.d_state
        grouped = (batch, seqlen, self.ngroups, d_state) if self.ngroups else (batch, seqlen, d_state)
        return Arguments(
            x=normal(batch, seqlen, d_inner),
            dt=normal(d_inner) if "dt" in self.constant.split() else normal(batch, seqlen, d_inner),
            A=-torch.rand(d_inner, d_state, generator=generator) - 0.1,
            B=normal(d_inner, d_state) if "B" in self.constant else normal(*grouped),
            C=normal(d_inner, d_state) if "C" in self.constant else normal(*grouped),
            D=maybe("D", normal(d_inner)),
            z=maybe("z", normal(batch, seqlen, d_inner)),
            dt_bias=maybe("dt_bias", normal(d_inner)),
            dt_softplus=True,
            initial_state=maybe("initial_state", normal(batch, d_inner, d_state)),
            reset=maybe("reset", torch.rand(batch, seqlen, generator=generator) < 0.15),
        )


def in_float64(arguments: Arguments, seqlen: int | None = None) -> tuple[Tensor, Tensor]:
    """y and the state after `seqlen` positions, by the reference."""

    def cut(value: Tensor | None, sequence: bool = True) -> Tensor | None:
        if value is None:
            return None
        value = value[:, :seqlen] if sequence and value.shape[:2] == arguments.x.shape[:2] else value
        return value if value.dtype == torch.bool else value.double()

    main = [cut(value) for value in (arguments.x, arguments.dt, arguments.A, arguments.B, arguments.C)]
    return selective_scan_reference(
        *main,  # type: ignore[arg-type]
        D=cut(arguments.D),
        z=cut(arguments.z),
        dt_bias=cut(arguments.dt_bias),
        dt_softplus=arguments.dt_softplus,
        initial_state=cut(arguments.initial_state, sequence=False),
        reset=cut(arguments.reset),
    )


def error(value: Tensor, reference: Tensor) -> float:
    """Relative error of a norm."""
    return float((value.double() - reference).norm() / reference.norm().clamp_min(1e-30))


EVERYTHING = "D z dt_bias initial_state reset"
CASES = {
    "L1": Case(seqlen=1),
    "L3-D1-N1-bare": Case(seqlen=3, d_inner=1, d_state=1, options=""),
    "L65-all": Case(seqlen=65, options=EVERYTHING),
    "L33-D17-N16": Case(batch=1, d_inner=17, d_state=16, options="D z initial_state"),
    "L20-N20-reset": Case(batch=1, seqlen=20, d_inner=6, d_state=20, options=EVERYTHING),
    "groups": Case(d_inner=6, d_state=4, ngroups=3, options=EVERYTHING),
    "constant-B-dt": Case(d_inner=6, d_state=4, constant="B dt", options=EVERYTHING),
    "constant-C": Case(d_inner=6, d_state=4, constant="C"),
    "constant-B-C": Case(d_inner=6, d_state=4, constant="B C", options=EVERYTHING),
    "unpacked": Case(
        d_inner=6, d_state=4, ngroups=2, options=EVERYTHING, config=Configuration(4, 8, 1, 1, packed=False)
    ),
    "one-block": Case(d_inner=6, d_state=4, options=EVERYTHING, config=Configuration(1, 4, 2, 1)),
    "split": Case(
        batch=1, seqlen=70, d_inner=6, d_state=4, options=EVERYTHING, config=Configuration(8, 2, 2, 2, splits=2)
    ),
    "carries-in-memory": Case(batch=1, seqlen=9, d_inner=2, d_state=36, options="initial_state reset D"),
    "split-carries-in-memory": Case(
        batch=1, seqlen=40, d_inner=2, d_state=33, options=EVERYTHING, config=Configuration(8, 4, 1, 1, splits=2)
    ),
    "lanes-over-states": Case(
        d_inner=6, d_state=16, options="D z dt_bias initial_state", config=Configuration(4, 2, 2, 1, "states")
    ),
    "lanes-over-states-bare": Case(
        batch=1, d_inner=5, d_state=16, options="", config=Configuration(8, 1, 1, 1, "states")
    ),
    "lanes-over-states-split": Case(
        batch=1,
        seqlen=70,
        d_inner=6,
        d_state=8,
        options="D z dt_bias initial_state",
        config=Configuration(4, 2, 2, 1, "states", splits=2),
    ),
    "products-pairs": Case(
        batch=1,
        seqlen=41,
        d_inner=24,
        d_state=16,
        options="D z dt_bias initial_state",
        config=Configuration(4, 2, 2, 1, "products"),
        dtype=torch.bfloat16,
    ),
    "products-split": Case(
        batch=1,
        seqlen=70,
        d_inner=8,
        d_state=16,
        options="z initial_state",
        config=Configuration(4, 2, 1, 2, "products", splits=2),
        dtype=torch.bfloat16,
    ),
    "products-N32-bare": Case(
        batch=1,
        seqlen=16,
        d_inner=16,
        d_state=32,
        options="",
        config=Configuration(4, 2, 2, 1, "products"),
        dtype=torch.bfloat16,
    ),
    "products-L1": Case(
        seqlen=1, d_inner=8, d_state=16, config=Configuration(4, 2, 1, 1, "products"), dtype=torch.bfloat16
    ),
    "teams": Case(
        batch=1,
        seqlen=70,
        d_inner=16,
        d_state=16,
        options="D z dt_bias initial_state",
        config=Configuration(4, 2, 1, 4, "teams"),
        dtype=torch.bfloat16,
    ),
    "teams-L1-bare": Case(
        seqlen=1, d_inner=8, d_state=16, options="", config=Configuration(4, 2, 1, 4, "teams"), dtype=torch.bfloat16
    ),
    "relay": Case(
        batch=1,
        seqlen=83,
        d_inner=16,
        d_state=16,
        options="D z dt_bias initial_state",
        config=Configuration(4, 2, 1, 4, "relay", unroll=4),
        dtype=torch.bfloat16,
    ),
    "relay-L1-bare": Case(
        seqlen=1,
        d_inner=8,
        d_state=16,
        options="",
        config=Configuration(4, 2, 1, 4, "relay", unroll=4),
        dtype=torch.bfloat16,
    ),
    "relay-groups": Case(
        batch=1,
        seqlen=128,
        d_inner=24,
        d_state=16,
        ngroups=3,
        config=Configuration(4, 2, 1, 4, "relay", unroll=4),
        dtype=torch.bfloat16,
    ),
    "products-groups": Case(
        batch=2,
        seqlen=19,
        d_inner=32,
        d_state=16,
        ngroups=2,
        config=Configuration(4, 2, 2, 1, "products"),
        dtype=torch.bfloat16,
    ),
    "products-groups-split": Case(
        batch=1,
        seqlen=40,
        d_inner=48,
        d_state=16,
        ngroups=3,
        config=Configuration(4, 2, 1, 2, "products", splits=2),
        dtype=torch.bfloat16,
    ),
    "teams-groups": Case(
        batch=2,
        seqlen=37,
        d_inner=24,
        d_state=16,
        ngroups=3,
        config=Configuration(4, 2, 1, 4, "teams"),
        dtype=torch.bfloat16,
    ),
    "lanes-over-states-groups": Case(d_inner=48, d_state=16, ngroups=3, config=Configuration(8, 1, 2, 2, "states")),
    "lanes-over-states-groups-split": Case(
        batch=2, seqlen=70, d_inner=32, d_state=8, ngroups=2, config=Configuration(4, 2, 2, 1, "states", splits=2)
    ),
    "lanes-over-states-L1": Case(seqlen=1, d_inner=5, d_state=16, config=Configuration(16, 1, 1, 1, "states")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_outputs_and_checkpoints_equal_the_reference(case: Case) -> None:
    arguments = case.build()
    y, final_state, checkpoints = scan_forward(arguments, save=True, config=case.config)
    expected, expected_state = in_float64(arguments)
    assert y.dtype == case.dtype
    assert error(y, expected) < (BF16_TOLERANCE if case.dtype == torch.bfloat16 else FP32_TOLERANCE)
    assert error(final_state, expected_state) < FP32_TOLERANCE
    assert checkpoints is not None
    for index, start in enumerate(range(CHECKPOINT_STEPS, case.seqlen, CHECKPOINT_STEPS), start=1):
        entering = in_float64(arguments, start)[1].transpose(1, 2)
        assert error(checkpoints[:, index], entering) < FP32_TOLERANCE
    first = arguments.initial_state
    expected_first = torch.zeros_like(checkpoints[:, 0]) if first is None else first.transpose(1, 2)
    assert torch.equal(checkpoints[:, 0], expected_first)


@pytest.mark.parametrize("bias", [-12.0, -9.2, -6.9])
def test_tiny_steps_keep_their_digits(bias: float) -> None:
    arguments = replace(
        Case(batch=1, seqlen=4, d_inner=2, d_state=2, options="").build(), dt_bias=torch.full((2,), bias)
    )
    _, state, _ = scan_forward(arguments, save=False)
    assert error(state, in_float64(arguments)[1]) < FP32_TOLERANCE


def test_fast_decay_and_growth_stay_exact() -> None:
    arguments = Case(batch=1, seqlen=9, d_inner=2, d_state=2).build()
    for rates in (torch.full((2, 2), -500.0), torch.full((2, 2), 0.2)):
        changed = replace(arguments, A=rates)
        y, state, _ = scan_forward(changed, save=False)
        expected, expected_state = in_float64(changed)
        assert error(y, expected) < FP32_TOLERANCE
        assert error(state, expected_state) < FP32_TOLERANCE


def test_strided_views_give_the_same_bits() -> None:
    given = Case(d_inner=4, d_state=4).build()
    wide = torch.cat([given.x, given.dt], dim=-1)
    x, dt = wide.chunk(2, dim=-1)
    transposed = given.B.transpose(1, 2).contiguous().transpose(1, 2)
    plain = selective_scan_triton(given.x, given.dt, given.A, given.B, given.C)
    viewed = selective_scan_triton(x, dt, given.A, transposed, given.C)
    turned = selective_scan_triton(given.x.mT.contiguous().mT, given.dt, given.A, given.B, given.C)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(plain, viewed, turned, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        Configuration(4, 2, 2, 1, "products"),
        Configuration(4, 2, 1, 4, "teams"),
        Configuration(8, 1, 2, 1, "states"),
    ],
    ids=lambda config: config.lanes,
)
def test_groups_that_are_members_of_a_batch_give_the_same_bits(config: Configuration) -> None:
    """B and C with the members first in memory, as an ensemble has them, and with B shared by all."""
    given = Case(batch=2, seqlen=9, d_inner=32, d_state=16, ngroups=2, dtype=torch.bfloat16, config=config).build()
    members = replace(given, B=given.B.movedim(2, 0).contiguous().movedim(0, 2))
    assert members.B.stride() != given.B.stride()
    shared = replace(given, B=given.B[:, :, 0])
    repeated = replace(given, B=given.B[:, :, :1].expand(-1, -1, 2, -1).contiguous())
    for one, other in ((given, members), (shared, repeated)):
        for ours, theirs in zip(
            scan_forward(one, save=False, config=config), scan_forward(other, save=False, config=config), strict=True
        ):
            assert ours is theirs or (ours is not None and theirs is not None and torch.equal(ours, theirs))


@pytest.mark.parametrize("names", [("B", "C"), ("B",)], ids=["both-grouped", "one-grouped"])
def test_different_groups_of_b_and_c(names: tuple[str, ...]) -> None:
    given = Case(seqlen=5, d_inner=6, d_state=2, ngroups=2).build()
    C = torch.randn(2, 5, 3, 2) if "C" in names else torch.randn(2, 5, 2)
    y, _ = selective_scan_triton(given.x, given.dt, given.A, given.B, C, dt_softplus=True)
    doubles = [value.double() for value in (given.x, given.dt, given.A, given.B, C)]
    assert error(y, selective_scan_reference(*doubles, dt_softplus=True)[0]) < FP32_TOLERANCE


def test_gradients_through_the_public_function_equal_the_reference() -> None:
    given = Case(batch=1, seqlen=5, d_inner=3, d_state=2, options="D z dt_bias initial_state").build()
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
    tensors = {name: getattr(given, name) for name in names}

    def gradients(implementation: ScanImplementation, dtype: torch.dtype) -> list[Tensor]:
        leaves = {name: value.to(dtype).requires_grad_() for name, value in tensors.items()}
        out = selective_scan(**leaves, dt_softplus=True, implementation=implementation)
        loss = out.y.square().sum() + out.final_state.sin().sum()
        return list(torch.autograd.grad(loss, list(leaves.values())))

    for name, ours, theirs in zip(
        names, gradients("triton", torch.float32), gradients("reference", torch.float64), strict=True
    ):
        assert error(ours, theirs) < FP32_TOLERANCE, name


def test_the_operator_is_registered_soundly() -> None:
    given = Case(batch=1, seqlen=3, d_inner=2, d_state=2, options="D initial_state").build()
    state = given.initial_state
    assert state is not None
    for tensor in (given.x, given.A, state):
        tensor.requires_grad_()
    arguments = (given.x, given.dt, given.A, given.B, given.C, given.D, None, None, True, state, None, True)
    torch.library.opcheck(selective_scan_forward, arguments)


def test_compiles_into_one_graph() -> None:
    given = Case(batch=1, seqlen=3, d_inner=2, d_state=2).build()

    def scan(x: Tensor) -> Tensor:
        return selective_scan(x, given.dt, given.A, given.B, given.C, z=given.z, implementation="triton").y.sum()

    compiled = torch.compile(scan, backend="aot_eager", fullgraph=True)
    x = given.x.requires_grad_()
    (ours,) = torch.autograd.grad(compiled(x), x)
    (theirs,) = torch.autograd.grad(scan(x), x)
    assert torch.equal(ours, theirs)


def test_refuses_what_it_cannot_compute() -> None:
    given = Case(seqlen=2).build()
    main = (given.dt, given.A, given.B, given.C)
    assert refusal(given.x, *main) == ""
    assert "float64" in refusal(given.x.double(), *main)
    assert "complex128" in refusal(given.x, given.dt, given.A.to(torch.complex128), given.B, given.C)
    assert "d_state" in refusal(given.x, given.dt, torch.zeros(5, 257), given.B, given.C)


def test_the_table_of_configurations_is_fixed_and_serves_every_shape() -> None:
    bare = Case().build()
    resets = Case(options="reset").build()
    assert not serves(Configuration(4, 2, 1, 1, "states"), resets)
    for arguments in (bare, resets):
        assert serves(configuration(arguments.shape), arguments)
    odd = Case(d_inner=12, d_state=16, dtype=torch.bfloat16).build()
    even = Case(d_inner=8, d_state=16, dtype=torch.bfloat16).build()
    shifted = replace(even, x=torch.randn(2, 33, 12).to(torch.bfloat16)[..., 4:])
    unaligned = replace(even, C=torch.randn(2, 33, 18).to(torch.bfloat16)[..., 2:])
    for config in (Configuration(4, 2, 1, 4, "teams"), Configuration(4, 2, 1, 1, "products")):
        assert serves(config, even)
        assert not any(serves(config, arguments) for arguments in (odd, shifted, unaligned))
    assert not serves(Configuration(4, 2, 1, 4, "teams"), Case(d_inner=8, d_state=16).build())
    straddled = Case(d_inner=24, d_state=16, ngroups=2, dtype=torch.bfloat16).build()
    assert not serves(Configuration(4, 2, 1, 1, "products"), straddled)
    assert not serves(Configuration(8, 1, 2, 1, "states"), straddled)
    assert not serves(Configuration(4, 2, 1, 4, "teams"), straddled)
    assert serves(Configuration(8, 1, 1, 1, "states"), straddled)
    shape = Shape(8, 2048, 2048, 16)
    assert all(a == b for a, b in pairwise([configuration(shape) for _ in range(3)]))


def test_the_layout_that_ran_is_recorded() -> None:
    choice.reset_used()
    x = torch.randn(1, 5, 6)
    selective_scan(x, x, -torch.rand(6, 3), torch.randn(1, 5, 3), torch.randn(1, 5, 3), implementation="triton")
    expected = describe(configuration(Shape(1, 6, 5, 3)))
    assert choice.layouts() == {"selective_scan": {"1x6x5x3": expected}}
