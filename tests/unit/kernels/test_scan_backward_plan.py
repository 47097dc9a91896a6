"""How the backward scan's work is divided, by shapes alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.selective_scan.triton_bwd_plan import TILE, plan_backward


@pytest.mark.parametrize(
    ("shape", "warps", "chunks"),
    [
        ((8, 256, 128, 16, 1), 4, 8),
        ((8, 256, 512, 16, 4), 8, 4),
        ((8, 256, 1024, 16, 8), 8, 2),
        ((8, 256, 2048, 16, 16), 8, 1),
        ((1, 2048, 2048, 16, 1), 8, 8),
    ],
)
def test_the_division_is_the_one_measured_to_be_the_fastest_in_a_step(
    shape: tuple[int, ...], warps: int, chunks: int
) -> None:
    plan = plan_backward(*shape)
    assert (plan.warps, plan.chunks) == (warps, chunks)


@given(
    st.integers(1, 64), st.integers(1, 3000), st.integers(1, 64), st.sampled_from([1, 2, 16, 64]), st.integers(1, 16)
)
def test_chunks_cover_the_sequence_and_none_is_empty(
    batch: int, seqlen: int, width: int, d_state: int, ngroups: int
) -> None:
    plan = plan_backward(batch, seqlen, width * ngroups, d_state, ngroups)
    covered = plan.chunks * plan.chunk_tiles * TILE
    assert covered >= seqlen > covered - plan.chunk_tiles * TILE
    assert plan.chunk_tiles * TILE % plan.piece_steps == 0
