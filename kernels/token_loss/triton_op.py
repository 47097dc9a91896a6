"""The Triton loss as a `torch.library` op: `torch.ops.mambalab.token_loss`. Rows are whole in a program's registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.devices import on_device
from kernels.token_loss.api import MAX_VOCAB

TILE = 512
"""Logits of a program: with 16 tokens 32 rows, so that the 2,048 positions of a tiny model's step make 64 programs."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refusal(logits: Tensor) -> str:
    """Why the Triton kernel cannot serve these arguments; empty when it can."""
    if logits.dtype not in DTYPES:
        return f"logits have dtype {str(logits.dtype).removeprefix('torch.')}, the kernel takes float32, bfloat16 and float16"
    if logits.shape[1] > MAX_VOCAB:
        return f"vocab_size is {logits.shape[1]}, the kernel takes at most {MAX_VOCAB}"
    return ""


def token_loss_triton(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses and slopes; see `token_loss`. Arguments are taken as checked and not refused."""
    losses, slopes = torch.ops.mambalab.token_loss(logits, targets, scale)
    return losses, slopes


# Program: rows [pid * BLOCK_R, ...) of logits (rows, vocab); each of the members has `share` rows.
@triton.jit  # type: ignore[untyped-decorator]
def token_loss_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, targets_ptr, scale_ptr, losses_ptr, slopes_ptr, rows, vocab, share, stride_row, stride_column,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_V)
    here = row < rows
    inside = here[:, None] & (column[None, :] < vocab)
    start = row[:, None].to(tl.int64)
    x = tl.load(logits_ptr + start * stride_row + column[None, :] * stride_column, mask=inside, other=float("-inf"))
    x = tl.where(here[:, None], x.to(tl.float32), 0.0)
    target = tl.load(targets_ptr + row, mask=here, other=-1)
    known = target >= 0
    top = tl.max(x, axis=1)
    powers = tl.exp(x - top[:, None])
    total = tl.sum(powers, axis=1)
    own = column[None, :] == target[:, None]
    loss = tl.log(total) - tl.sum(tl.where(own, x - top[:, None], 0.0), axis=1)
    tl.store(losses_ptr + row, tl.where(known, loss, 0.0), mask=here)
    weight = tl.where(known, tl.load(scale_ptr + row // share, mask=here, other=0.0), 0.0)
    slope = (powers / total[:, None] - own.to(tl.float32)) * weight[:, None]
    tl.store(slopes_ptr + start * vocab + column[None, :], slope.to(slopes_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("mambalab::token_loss", mutates_args=())
def token_loss_op(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    losses, slopes = _outputs(logits, targets, scale)
    rows, vocab = logits.shape
    block_v = triton.next_power_of_2(vocab)
    block_r = max(1, TILE // block_v)
    with on_device(logits):
        token_loss_kernel[(triton.cdiv(rows, block_r),)](
            logits, targets.contiguous(), scale.float().reshape(-1), losses, slopes, rows, vocab,
            rows // max(1, scale.numel()), *logits.stride(), BLOCK_R=block_r, BLOCK_V=block_v, num_warps=4,
        )  # fmt: skip
    return losses, slopes


def _outputs(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    return losses, torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


token_loss_op.register_fake(_outputs)
