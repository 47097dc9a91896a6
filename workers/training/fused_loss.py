"""Cross-entropy without the logits of all positions: head and loss in one, a chunk of positions at a time.

The logits of a language model's step are its largest tensor (8 x 2048 positions of 50,280 tokens: 3.1 GiB in fp32, and their
gradient again). Here the gradients of the hidden states and of the head are made where a chunk's logits are, in the forward pass,
and the backward pass hands them on: three products as without it, and nothing is computed twice.

`chunked` is PyTorch alone, the same on a CPU and a GPU: deterministic, never waits for the device, and a CUDA graph can hold it.
`liger-kernel` is the library of that name, where it is installed: its loss is one kernel a chunk, and it waits for the device
twice, so that it serves eager steps on a GPU. PyTorch's own `linear_cross_entropy` (2.13) rounds the loss to bf16 under
autocast; it is not used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from workers.models import LanguageModel
from workers.specs import TrainSpec
from workers.tasks import IGNORE
from workers.training.precision import Placement

FUSED_FROM = 16384
"""Tokens of a vocabulary from which `train.fused_loss` "auto" fuses; measured (docs/LOG.md, "Large models")."""

_CHUNK = {"cpu": 2**22, "cuda": 2**26}  # logits at once; on a CPU they should stay in its caches

Name = Literal["plain", "chunked", "liger-kernel"]


class Choice(NamedTuple):
    """How a run's loss is computed, and why."""

    name: Name
    why: str

    @property
    def fused(self) -> bool:
        """Whether no step holds the logits of all its positions."""
        return self.name != "plain"


def choose(train: TrainSpec, model: object, placement: Placement, *, captured: bool) -> Choice:
    """Decide how a model's loss is computed; `captured`: its steps may be recorded into a graph."""
    if not isinstance(model, LanguageModel):
        return Choice("plain", "the model shows its logits alone")
    if train.fused_loss == "off":
        return Choice("plain", "train.fused_loss is 'off'")
    if train.fused_loss == "auto" and model.vocab_size < FUSED_FROM:
        return Choice("plain", f"auto: fewer than {FUSED_FROM:,} tokens")
    why = "train.fused_loss is 'on'" if train.fused_loss == "on" else f"auto: at least {FUSED_FROM:,} tokens"
    if placement.device.type != "cuda":
        return Choice("chunked", f"{why}; on a CPU")
    if captured:
        return Choice("chunked", f"{why}; a graph can hold it")
    if importlib.util.find_spec("liger_kernel") is None:
        return Choice("chunked", f"{why}; liger-kernel is not installed")
    return Choice("liger-kernel", f"{why}; liger-kernel {importlib.metadata.version('liger-kernel')} on eager steps")


class Loss(NamedTuple):
    """What a pass gives: what to differentiate, with which gradient, the sum of losses, and how many are right."""

    root: Tensor
    gradient: Tensor | None
    total: Tensor
    hits: Tensor


def chunked_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, *, measure: bool, taken: Tensor | None = None
) -> Loss:
    """Return the loss of `hidden @ weight.T`, with gradients as autograd's own.

    Shapes:
        hidden: (positions, d_model);  weight: (vocab_size, d_model);  targets: (positions,), `IGNORE` for none
        scale: (), what each supervised position weighs;  taken: the weight as products take it, by default cast as they do
    Dtypes: products in autocast's dtype, else the hidden states'; softmax, sums and the weight's gradient in fp32 (fp64).
    Determinism: bitwise on one device; the chunks are summed in their order.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    taken = weight.detach().to(dtype) if taken is None else taken
    root, total, hits = _Chunked.apply(hidden.to(dtype), weight, taken, targets, scale, measure)  # type: ignore[no-untyped-call]
    return Loss(root, None, total, hits if measure else total)


def liger_loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, *, measure: bool) -> Loss:
    """As `chunked_loss`, by liger-kernel, on CUDA. Deterministic there too; waits for the device."""
    fused: Any = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    settings = (None, None, IGNORE, 0.0, 0.0, "sum", None, False, torch.float32, False, False, measure)
    total, _, _, predicted = fused.LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets, *settings)
    hits = (predicted == targets).sum() if measure else total.detach()
    return Loss(total, scale, total.detach(), hits)


def logits_in_pieces(model: LanguageModel, tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield a model's logits for consecutive positions of all sequences, never those of all positions at once."""
    hidden = model.features(tokens)
    size = max(1, _positions(model.vocab_size, tokens.device) // len(tokens))
    for start in range(0, tokens.shape[1], size):
        piece = slice(start, start + size)
        yield piece, F.linear(hidden[:, piece], model.head.weight)


def _positions(vocab_size: int, device: torch.device) -> int:
    """Return how many positions make a chunk: a multiple of 128, which products like."""
    return max(128, _CHUNK.get(device.type, 2**26) // vocab_size // 128 * 128)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, taken: Tensor, targets: Tensor, scale: Tensor, measure: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, taken, targets, scale, measure)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, droot: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dweight = ctx.saved_tensors
        return dhidden.mul_(droot), dweight.mul_(droot), None, None, None, None


def _forward(
    ctx: Any, hidden: Tensor, weight: Tensor, taken: Tensor, targets: Tensor, scale: Tensor, measure: bool
) -> tuple[Tensor, Tensor, Tensor]:
    size = _positions(len(weight), hidden.device)
    fine = torch.promote_types(hidden.dtype, torch.float32)
    dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight, memory_format=torch.contiguous_format)
    losses = torch.empty(len(hidden), dtype=fine, device=hidden.device)
    hits = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        fed, sought = hidden[rows], targets[rows]
        known = sought != IGNORE
        place = torch.where(known, sought, 0)[:, None]
        logits = fed @ taken.t()
        most, guess = logits.max(-1)
        if measure:
            hits += (guess == sought).sum()  # IGNORE is no token: such positions are never right
        wanted = logits.gather(1, place).to(fine)
        slope = torch.softmax(logits, -1, dtype=fine)
        # the largest probability is one over the sum of exponentials, and never too small for a logarithm
        logsum = most.to(fine)[:, None] - slope.gather(1, guess[:, None]).log()
        loss = logsum - wanted
        losses[rows] = torch.where(known, loss.squeeze(1), 0.0)
        slope.scatter_(1, place, (-loss).expm1())
        dlogits = torch.mul(slope, (known * scale)[:, None], out=logits)  # rounded once, as autograd would
        torch.mm(dlogits, taken, out=dhidden[rows])
        _add_product(dweight, dlogits.t(), fed)
    total = losses.sum()
    ctx.save_for_backward(dhidden, dweight)
    ctx.mark_non_differentiable(total, hits)
    return total * scale, total, hits


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product to a sum in the sum's own precision."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left.mm(right)
