"""The Triton loss on Triton's interpreter."""

import pytest
import torch

from kernels.common.errors import UnsupportedError
from kernels.token_loss import token_loss
from kernels.token_loss.api import MAX_VOCAB
from tests.unit.kernels.token_loss_cases import CASES, check, draw

pytestmark = pytest.mark.interpreter


@pytest.mark.parametrize(("rows", "vocab", "members"), CASES)
def test_it_is_pytorch_s_own(rows: int, vocab: int, members: int) -> None:
    check(rows, vocab, members, dtype=torch.float32, implementation="triton")


def test_strided_logits() -> None:
    logits, targets, scale = draw(10, 8, 1, dtype=torch.float32)
    wide = torch.empty(8, 20).t()[::2]
    wide.copy_(logits)
    found, expected = (token_loss(one, targets, scale, implementation="triton") for one in (wide, logits))
    assert torch.equal(found.losses, expected.losses)
    assert torch.equal(found.slopes, expected.slopes)


def test_rows_that_do_not_fit_are_refused() -> None:
    logits, targets, scale = draw(2, MAX_VOCAB + 1, 1, dtype=torch.float32)
    with pytest.raises(UnsupportedError, match=f"at most {MAX_VOCAB}"):
        token_loss(logits, targets, scale, implementation="triton")
