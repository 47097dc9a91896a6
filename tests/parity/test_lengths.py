"""Lengths on a GPU: several models at once, in pieces that a CUDA graph replays, against each alone and in one piece."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from kernels import stacked_products as small
from workers.models import LanguageModel, build_model
from workers.specs import InductionHeadsSpec, ModelSpec
from workers.training import cutting, pieces
from workers.training.extrapolation import Examiner, HeldOut, LengthRow
from workers.training.precision import Placement
from workers.training.readers import ModelReader
from workers.training.stacked import Stack
from workers.training.stacked_reader import StackReader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MEMBERS, LENGTH, PIECE = 3, 2048, 256
HELD_OUT = HeldOut(8, 8)


def models() -> list[LanguageModel]:
    found = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(MEMBERS):
            torch.manual_seed(seed)
            model = build_model(ModelSpec(d_model=64, n_layer=2, dt_rank=16, tie_embeddings=False), 16)
            with torch.no_grad():
                model.head.weight.mul_(20)  # so that the losses differ by what was read
            found.append(model.to("cuda"))
    return found


def placed(precision: str) -> Placement:
    return Placement(
        torch.device("cuda", torch.cuda.current_device()), 1, "fp32" if precision == "fp32" else "bf16", "test"
    )


def together(members: list[LanguageModel], loss_on: str, precision: str) -> list[LengthRow]:
    """Read in pieces of PIECE positions, 32 sequences side by side."""
    stack = Stack(members, [[name for name, _ in members[0].named_parameters()]])
    reader = StackReader(stack, members[0], placed(precision))
    task = InductionHeadsSpec.model_validate({"seqlen": LENGTH, "vocab": 16, "loss_on": loss_on})
    found = Examiner(reader, task, HELD_OUT).examine(LENGTH)
    assert found is not None
    assert found[0].positions == 32 * PIECE
    return found


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = cutting.PIECE_WIDTH // 64
    monkeypatch.setattr(cutting, "PIECE_TOKENS_CUDA", MEMBERS * 32 * PIECE // narrow)


@pytest.mark.parametrize("loss_on", ["last", "all"])
def test_members_in_recorded_pieces_find_what_each_finds_alone_in_one(
    loss_on: str, request: pytest.FixtureRequest
) -> None:
    """In fp32, summed in another order: 2,048 positions carry on some ten roundings of 2^-24 each."""
    members = models()
    task = InductionHeadsSpec.model_validate({"seqlen": LENGTH, "vocab": 16, "loss_on": loss_on})
    alone = [Examiner(ModelReader(model, placed("fp32")), task, HELD_OUT).examine(LENGTH) for model in members]
    request.getfixturevalue("small_pieces")
    found = together(members, loss_on, "fp32")
    assert found[0].recorded
    assert len({row.metrics["valid/loss"] for row in found}) == MEMBERS
    for row, own in zip(found, alone, strict=True):
        assert own is not None
        assert own[0].positions > 32 * PIECE
        assert row.metrics["valid/loss"] == pytest.approx(own[0].metrics["valid/loss"], rel=1e-3)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_pieces_are_the_launched_ones_bit_for_bit(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members = models()
    recorded = together(members, "last", precision)
    monkeypatch.setattr(pieces, "RECORD_FROM", 10**6)
    launched = together(members, "last", precision)
    assert (recorded[0].recorded, launched[0].recorded) == (True, False)
    assert [row.metrics for row in recorded] == [row.metrics for row in launched]


@pytest.mark.parametrize("count", [1, MEMBERS])
def test_tokens_looked_up_by_the_kernel_are_the_rows_themselves(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    members = models()[:count]
    names = [[name for name, _ in members[0].named_parameters()]]
    reader = (
        ModelReader(members[0], placed("fp32"))
        if count == 1
        else StackReader(Stack(members, names), members[0], placed("fp32"))
    )
    tokens = torch.randint(16, (4, PIECE + 1), device="cuda")[:, 1:]
    kernel = Mock(wraps=small.embed)
    monkeypatch.setattr(small, "embed", kernel)
    with reader.reading():
        by_kernel, _ = reader.features(tokens, None)
        monkeypatch.setattr(small, "serves_tokens", lambda weight: False)
        by_pytorch, _ = reader.features(tokens, None)
    assert kernel.call_count == 1
    assert torch.equal(by_kernel, by_pytorch)
