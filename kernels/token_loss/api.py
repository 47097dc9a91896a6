"""The public function: checks, choice of implementation, and nothing else."""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.common.checks import FLOATING, check_device, check_dtype, check_nonempty
from kernels.common.choice import Implementation, resolve, wants_triton
from kernels.common.errors import ShapeError
from kernels.token_loss.reference import token_loss_reference

OP = "token_loss"
MAX_VOCAB = 2048
"""Tokens whose logits fit a program's registers. Larger vocabularies want other losses (`workers.training.fused_loss`)."""

IGNORE = -100
"""Target of a row that does not count; that of `torch.nn.functional.cross_entropy`, too."""


class TokenLoss(NamedTuple):
    """What the loss returns: one number a row, and the gradient of their weighted sum."""

    losses: Tensor
    slopes: Tensor


def token_loss(logits: Tensor, targets: Tensor, scale: Tensor, *, implementation: Implementation = "auto") -> TokenLoss:
    """Return each row's cross-entropy, and the gradient by the logits of the sum of all, each times its scale.

    Computes: loss[i] = log(sum over v of exp(logits[i, v])) - logits[i, targets[i]], 0 where targets[i] is IGNORE
              slope[i, v] = scale (exp(logits[i, v]) / sum - [v = targets[i]]), 0 there, too

    Shapes: logits, slopes: (rows, vocab_size);  targets, losses: (rows,);  scale: (), or (members,) where the rows are so
        many equal parts, each with a scale of its own
    Dtypes: logits floating; targets int64, in [0, vocab_size) or IGNORE, which is not checked; scale fp32 (fp64). Computed in
        fp32 (fp64 where the logits are); slopes have the logits' dtype.
    Numerics: rounded once, from fp32 to the logits' dtype.
    Gradients: none; the slopes are what a backward pass through the logits starts from.
    Determinism: bitwise on one machine; no atomics.

    Raises:
        ShapeError: names argument, expected and received shape.
        UnsupportedError: device, dtype or implementation; names what works instead.
    """
    _check(logits, targets, scale)
    logits = logits.detach()
    triton = _triton() if wants_triton(OP, implementation, logits.device.type) else None
    refusal = "" if triton is None else triton.refusal(logits)
    if resolve(OP, implementation, "torch", logits.device.type, refusal) == "triton":
        assert triton is not None
        return TokenLoss(*triton.token_loss_triton(logits, targets, scale))
    with torch.autocast(logits.device.type, enabled=False):
        return TokenLoss(*token_loss_reference(logits, targets, scale))


def _triton() -> ModuleType:
    from kernels.token_loss import triton_op

    return triton_op


def _check(logits: Tensor, targets: Tensor, scale: Tensor) -> None:
    check_dtype(OP, "logits", logits, FLOATING)
    check_dtype(OP, "targets", targets, (torch.int64,))
    if logits.dim() != 2:
        raise ShapeError(f"{OP}: logits must have shape (rows, vocab_size), got {tuple(logits.shape)}")
    check_nonempty(OP, "logits", (("rows", logits.shape[0]), ("vocab_size", logits.shape[1])))
    rows = logits.shape[0]
    if targets.shape != (rows,):
        raise ShapeError(f"{OP}: targets must have shape (rows,) = ({rows},), got {tuple(targets.shape)}")
    if scale.dim() > 1 or rows % max(1, scale.numel()):
        raise ShapeError(
            f"{OP}: scale must have shape () or (members,), a divisor of {rows} rows, got {tuple(scale.shape)}"
        )
    check_device(OP, logits, (("targets", targets), ("scale", scale)))
