"""The Triton selective scan on a GPU: every output and gradient against float64, in every dtype."""

import pytest
import torch

from kernels.bench.problems import Problem, selective_scan_problem
from kernels.bench.verify import FACTOR, floor, parity, poisoned_buffers, relative_error, repeats_bitwise
from kernels.selective_scan.reference import selective_scan_reference
from kernels.selective_scan.triton_launch import Arguments, Shape, configuration, scan_forward
from kernels.selective_scan.triton_layout import Configuration

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
    return selective_scan_problem(sizes, dtype, "cuda", ngroups=ngroups, initial_state=initial_state, reset=reset)


def check(given: Problem) -> None:
    for row in parity(given):
        assert row.passed, row


@pytest.mark.parametrize("reset", [False, True], ids=["whole", "reset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_reference(dtype: torch.dtype, reset: bool) -> None:
    check(problem(dtype, reset=reset))


@pytest.mark.parametrize("seqlen", [1, 31, 2047, 2049])
def test_any_length(seqlen: int) -> None:
    check(problem(torch.float32, seqlen=seqlen))


@pytest.mark.parametrize("d_inner", [1, 5, 129])
def test_any_number_of_channels(d_inner: int) -> None:
    check(problem(torch.float32, d_inner=d_inner, initial_state=False))


@pytest.mark.parametrize("d_state", [1, 3, 20, 64, 256])
def test_any_number_of_states(d_state: int) -> None:
    check(problem(torch.bfloat16, seqlen=40, d_inner=8, d_state=d_state))


@pytest.mark.parametrize("reset", [False, True], ids=["whole", "reset"])
def test_groups(reset: bool) -> None:
    check(problem(torch.bfloat16, d_inner=12, ngroups=3, reset=reset))


def test_groups_of_two_sizes() -> None:
    given = problem(torch.float32, d_inner=12, ngroups=2)
    given.tensors["C"] = torch.randn(2, 70, 3, 16, device="cuda")
    check(given)


@pytest.mark.parametrize("constant", ["B", "C", "dt", "B C dt"])
def test_constants(constant: str) -> None:
    given = problem(torch.float32, d_inner=12, d_state=4)
    shapes = {"B": (12, 4), "C": (12, 4), "dt": (12,)}
    for name in constant.split():
        given.tensors[name] = torch.randn(shapes[name], device="cuda")
    check(given)


@pytest.mark.parametrize("absent", ["D", "z", "dt_bias", "D z dt_bias"])
def test_without_options(absent: str) -> None:
    given = problem(torch.float32, initial_state=False)
    for name in absent.split():
        given.tensors.pop(name)
    check(given)


def test_mixed_dtypes() -> None:
    given = problem(torch.bfloat16)
    given.tensors["dt"] = given.tensors["dt"].float()
    given.tensors["B"] = given.tensors["B"].half()
    check(given)


def test_tiny_steps_and_fast_decay() -> None:
    slow = problem(torch.float32)
    slow.tensors["dt"] = slow.tensors["dt"] * 0.1
    slow.tensors["dt_bias"] = torch.full_like(slow.tensors["dt_bias"], -9.2)
    check(slow)
    fast = problem(torch.float32)
    fast.tensors["A"] = fast.tensors["A"] * 300
    check(fast)


def test_strided_views() -> None:
    check(problem(torch.bfloat16).strided())


LAYOUTS = [
    Configuration(4, 2, 2, 4, "states"),
    Configuration(4, 2, 2, 4, "states", splits=3),
    Configuration(8, 1, 2, 4, "states"),
    Configuration(8, 1, 1, 4, "states"),
    Configuration(16, 1, 1, 4, "states"),
    Configuration(4, 8, 1, 4, registers=128),
    Configuration(8, 8, 1, 4, splits=3),
    Configuration(16, 8, 1, 4, registers=128),
    Configuration(32, 8, 1, 4),
    Configuration(16, 8, 1, 4, packed=False),
]


@pytest.mark.parametrize(
    "config",
    LAYOUTS,
    ids=lambda config: f"{config.lanes}-{config.blocks}x{config.steps}x{config.channels}-{config.splits}",
)
@pytest.mark.parametrize(("seqlen", "d_inner"), [(257, 34), (256, 256)], ids=["odd", "even"])
def test_every_layout_computes_the_same(config: Configuration, seqlen: int, d_inner: int) -> None:
    tensors = problem(torch.float32, seqlen=seqlen, d_inner=d_inner).tensors
    arguments = Arguments(**tensors, dt_softplus=True, reset=None)
    with poisoned_buffers():
        y, state, checkpoints = scan_forward(arguments, save=True, config=config)
    half = {name: values[:, :64] if name in ("x", "dt", "B", "C", "z") else values for name, values in tensors.items()}
    assert checkpoints is not None
    for found, expected, bound in zip((y, state), *references(tensors), strict=True):
        assert relative_error(found, expected) <= bound
    (_, entering), (_, bound) = references(half)
    assert relative_error(checkpoints[:, 2].mT, entering) <= bound


def references(tensors: dict[str, torch.Tensor]) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[float, float]]:
    """y and the final state in float64, and how far a result may be from them, as `bench.verify` has it: twice as far as plain
    PyTorch in the same dtypes, and a floor."""
    plain = selective_scan_reference(**tensors, dt_softplus=True)
    expected = selective_scan_reference(**{name: value.double() for name, value in tensors.items()}, dt_softplus=True)
    bounds = [FACTOR * relative_error(p, e) + floor(p.dtype) for p, e in zip(plain, expected, strict=True)]
    return expected, (bounds[0], bounds[1])


BF16_LAYOUTS = [
    Configuration(4, 2, 2, 4, "products"),
    Configuration(4, 2, 2, 4, "products", registers=255),
    Configuration(4, 2, 1, 4, "products", registers=96),
    Configuration(4, 2, 2, 4, "products", registers=128, splits=3),
    Configuration(4, 2, 1, 4, "teams", registers=128),
    Configuration(4, 2, 1, 4, "teams", registers=168, unroll=2),
    Configuration(4, 2, 1, 4, "relay", registers=168),
    Configuration(4, 2, 1, 8, "relay", registers=128, unroll=4),
]


BF16_CASES = [
    pytest.param(config, d_state, id=f"{d_state}-{config.lanes}-{config.channels}-{config.splits}-{config.registers}")
    for d_state in (16, 64)
    for config in BF16_LAYOUTS
    if d_state == 16 or config.lanes == "products"  # the others are written for 16 states
]


@pytest.mark.parametrize(("config", "d_state"), BF16_CASES)
@pytest.mark.parametrize(("seqlen", "d_inner"), [(1, 32), (257, 40), (256, 256)], ids=["one", "odd", "even"])
def test_every_layout_for_bf16(config: Configuration, seqlen: int, d_inner: int, d_state: int) -> None:
    tensors = problem(torch.bfloat16, seqlen=seqlen, d_inner=d_inner, d_state=d_state).tensors
    arguments = Arguments(**tensors, dt_softplus=True, reset=None)
    with poisoned_buffers():
        y, state, _ = scan_forward(arguments, save=True, config=config)
        again, _, _ = scan_forward(arguments, save=True, config=config)
    for found, expected, bound in zip((y, state), *references(tensors), strict=True):
        assert relative_error(found, expected) <= bound
    assert torch.equal(y, again)


@pytest.mark.parametrize(
    ("lanes", "batch", "d_inner", "seqlen", "d_state"),
    [
        ("products", 16, 2048, 72, 16),
        ("products", 16, 2048, 70, 16),
        ("products", 8, 1536, 70, 16),
        ("products", 4, 1536, 70, 64),
        ("products", 2, 136, 8200, 16),
        ("products", 3, 1368, 70, 16),
        ("teams", 2, 1280, 70, 16),
        ("relay", 1, 2048, 128, 16),
        ("relay", 2, 40, 70, 16),
        ("relay", 2, 40, 512, 16),
        ("relay", 1, 8, 1, 16),
        ("states", 2, 34, 70, 16),
    ],
)
def test_the_layouts_for_bf16_by_the_table(lanes: str, batch: int, d_inner: int, seqlen: int, d_state: int) -> None:
    """Outputs and gradients of the op as a model calls it, with each row of the table."""
    given = problem(batch=batch, d_inner=d_inner, seqlen=seqlen, d_state=d_state)
    assert configuration(Shape(batch, d_inner, seqlen, d_state, words=d_inner % 8 == 0)).lanes == lanes
    check(given)
    assert repeats_bitwise(given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("members", "channels", "seqlen"), [(8, 128, 256), (3, 24, 70), (4, 1024, 300)], ids=["ensemble", "odd", "wide"]
)
def test_members_of_an_ensemble(members: int, channels: int, seqlen: int, dtype: torch.dtype) -> None:
    """Members are groups, and take a layout of one program for channels of one group."""
    batch = 8 if channels >= 128 else 2
    given = problem(dtype, batch=batch, seqlen=seqlen, d_inner=members * channels, ngroups=members)
    narrow = dtype == torch.bfloat16
    chosen = configuration(Shape(batch, members * channels, seqlen, 16, members, words=narrow))
    assert chosen.lanes in (("products", "relay") if narrow else ("states",))
    check(given)
    assert repeats_bitwise(given)


def test_the_targets_shapes_run_in_their_own_configurations() -> None:
    shape = Shape(64, 128, 300, 16)
    tensors = problem(torch.bfloat16, batch=64, seqlen=300, d_inner=128, initial_state=False).tensors
    y, _, _ = scan_forward(Arguments(**tensors, dt_softplus=True, initial_state=None, reset=None), save=False)
    other = Configuration(4, 8, 1, 4)
    assert configuration(shape) != other
    z, _, _ = scan_forward(
        Arguments(**tensors, dt_softplus=True, initial_state=None, reset=None), save=False, config=other
    )
    assert relative_error(y, z.double()) < 2e-3
