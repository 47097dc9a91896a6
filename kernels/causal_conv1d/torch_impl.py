"""The causal convolution in plain PyTorch, as a sum of shifted copies of the sequence times one weight a channel each.

On a CPU this takes 0.4 of the time of a depthwise `F.conv1d`, which also wants its channels first (docs/LOG.md, "The
convolution and the norm on a CPU").
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kernels.causal_conv1d.reference import causal_conv1d_update_reference, empty_past
from kernels.common.checks import state_dtype
from kernels.common.members import apart, side_by_side


def causal_conv1d_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state; see `causal_conv1d`. Arguments are taken as checked."""
    seqlen, before = x.shape[1], weight.shape[1] - 1
    dtype = state_dtype(x)
    taps = weight.to(dtype).t()
    bias = None if bias is None else bias.to(dtype)
    if initial_state is None and reset is None:
        y = _convolve(x.to(dtype), taps, bias)
        final = x[:, seqlen - before :] if seqlen >= before else F.pad(x, (0, 0, before - seqlen, 0))
    else:
        past = empty_past(x, weight) if initial_state is None else initial_state.to(x.dtype)
        wide = torch.cat((past, x), dim=1)
        final = wide[:, seqlen:]
        if reset is None:
            y = _convolve(wide.to(dtype), taps, bias)[:, before:]
        else:
            sequence = F.pad(reset.cumsum(1), (before, 0))  # numbers the sequences of the pack
            y = _convolve_packed(wide.to(dtype), taps, bias, sequence)
            final = final.masked_fill((sequence[:, seqlen:] != sequence[:, -1:])[..., None], 0)
    y = F.silu(y) if activation == "silu" else y
    return y.to(x.dtype), final.clone(
        memory_format=torch.contiguous_format
    )  # never a view of x: it is updated in place


causal_conv1d_update_torch = causal_conv1d_update_reference
"""One position leaves nothing to do better than the reference does."""


def _convolve(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = _Convolution.apply(x, taps, bias)  # type: ignore[no-untyped-call]
    return y


def _convolve_packed(wide: Tensor, taps: Tensor, bias: Tensor | None, sequence: Tensor) -> Tensor:
    """Convolve what includes the positions before the first; `sequence` tells which ones may see each other."""
    width = len(taps)
    seqlen = wide.shape[1] - width + 1
    y = torch.zeros((), dtype=wide.dtype, device=wide.device) if bias is None else bias
    for tap in range(width):
        foreign = sequence[:, tap : tap + seqlen] != sequence[:, width - 1 :]
        shifted = wide[:, tap : tap + seqlen].masked_fill(foreign[..., None], 0)
        y = torch.addcmul(y, shifted, taps[tap])
    return y


class _Convolution(torch.autograd.Function):
    """Each tap is one multiply-add in place; autograd would keep a copy of the sequence for each."""

    @staticmethod
    def forward(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
        y = x * taps[-1] if bias is None else torch.addcmul(bias, x, taps[-1])
        for back in range(1, len(taps)):
            y[:, back:].addcmul_(x[:, :-back], taps[-1 - back])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        dx, dtaps = dy * taps[-1], torch.empty_like(taps)
        dtaps[-1] = (dy * x).sum((0, 1))
        for back in range(1, len(taps)):
            dx[:, :-back].addcmul_(dy[:, back:], taps[-1 - back])
            dtaps[-1 - back] = (dy[:, back:] * x[:, :-back]).sum((0, 1))
        return dx, dtaps, dy.sum((0, 1)) if ctx.needs_input_grad[2] else None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, taps: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """Take members as channels."""
        members = info.batch_size
        x, taps = side_by_side(x, in_dims[0], 2, members), side_by_side(taps, in_dims[1], 1, members)
        bias = None if bias is None else side_by_side(bias, in_dims[2], 0, members)
        return apart(_convolve(x, taps, bias), 2, members), 2
