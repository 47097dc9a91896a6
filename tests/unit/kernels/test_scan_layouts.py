"""The table of the Triton scan's layouts: what it picks is fixed, serves the shape and keeps groups apart."""

from itertools import product

import pytest

from kernels.selective_scan.triton_launch import KEEP_HALVES, Shape, configuration


@pytest.fixture(params=[False, True], ids=["fp32", "bf16"])
def words(request: pytest.FixtureRequest) -> bool:
    """Whether all is bf16 and aligned."""
    return bool(request.param)


@pytest.mark.parametrize(("members", "channels", "batch"), [(8, 128, 8), (4, 128, 2), (16, 256, 64), (3, 1536, 8)])
@pytest.mark.parametrize("seqlen", [256, 1100, 16384])
def test_an_ensemble_keeps_its_members_layout(
    members: int, channels: int, batch: int, seqlen: int, words: bool
) -> None:
    chosen = configuration(Shape(batch, members * channels, seqlen, 16, members, words=words))
    assert chosen.lanes in ({"products", "relay"} if words else {"states"})
    assert channels % chosen.width == 0


def test_no_program_has_channels_of_two_groups(words: bool) -> None:
    sizes = product((1, 8, 64), (2, 3, 8, 20), (4, 8, 12, 16, 24, 48, 96), (8, 16, 64), (100, 9000))
    for batch, ngroups, channels, d_state, seqlen in sizes:
        shape = Shape(batch, ngroups * channels, seqlen, d_state, ngroups, words=words)
        chosen = configuration(shape)
        assert chosen.lanes == "time" or channels % chosen.width == 0, shape


def test_channels_that_no_program_can_keep_apart_take_the_general_kernel(words: bool) -> None:
    assert configuration(Shape(8, 50, 256, 16, 10, words=words)).lanes == "time"


@pytest.mark.parametrize("lean", [True, False])
def test_what_keeps_states_in_halves_serves_every_shape_that_has_them_so(words: bool, lean: bool) -> None:
    """The operator's registration for tracing tells the form of the checkpoints from the shape, without the layout."""
    for batch, ngroups, channels, d_state in product((1, 2, 8, 64), (1, 2, 8), (128, 384, 2048), (64, 128, 192, 256)):
        shape = Shape(batch, ngroups * channels, 2048, d_state, ngroups, lean=lean, words=words and lean)
        assert configuration(shape).lanes in KEEP_HALVES, shape
