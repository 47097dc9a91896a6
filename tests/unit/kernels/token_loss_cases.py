"""What the loss is checked against, on whatever device and by whichever implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.token_loss import token_loss

CASES = [(1, 1, 1), (6, 5, 1), (70, 16, 1), (96, 16, 4), (33, 200, 3), (4, 1500, 2)]
"""(rows, vocab_size, members)"""


def draw(rows: int, vocab: int, members: int, *, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, ...]:
    """Return logits, targets of which some are ignored, and scales."""
    generator = torch.Generator().manual_seed(rows + vocab)
    logits = 3 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    targets[1::3] = -100
    scale = torch.rand(members, generator=generator) if members > 1 else torch.tensor(0.3)
    return logits.to(device, dtype), targets.to(device), scale.to(device)


def check(rows: int, vocab: int, members: int, *, dtype: torch.dtype, device: str = "cpu", **how: Any) -> None:
    """Compare with PyTorch's loss and autograd in float64, from the same rounded logits."""
    logits, targets, scale = draw(rows, vocab, members, dtype=dtype, device=device)
    leaf = logits.double().requires_grad_()
    expected = F.cross_entropy(leaf, targets, reduction="none")
    (expected.view(members, -1).sum(1) * scale.double()).sum().backward()  # type: ignore[no-untyped-call]
    found = token_loss(logits, targets, scale, **how)
    assert found.losses.shape == targets.shape
    assert found.slopes.shape == logits.shape
    assert found.slopes.dtype == dtype
    rounding = torch.finfo(dtype).eps
    fine = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found.losses.double(), expected.detach(), rtol=fine, atol=4 * fine)
    assert leaf.grad is not None
    torch.testing.assert_close(found.slopes.double(), leaf.grad, rtol=rounding, atol=fine)
