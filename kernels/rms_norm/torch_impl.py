"""RMSNorm after a residual addition, in plain PyTorch with its own backward.

On a CPU autograd's backward of the formula takes twice as long, and so does `F.rms_norm`'s (docs/LOG.md, "The convolution
and the norm on a CPU").
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.checks import state_dtype
from kernels.common.members import first


def rms_norm_torch(
    x: Tensor, weight: Tensor, *, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream; see `rms_norm`. Arguments are taken as checked."""
    dtype = state_dtype(x)
    stream = x.to(dtype) if residual is None else x.to(dtype) + residual.to(dtype)
    y, _ = _Norm.apply(stream, weight.to(dtype), eps)  # type: ignore[no-untyped-call]
    return y.to(x.dtype), stream


class _Norm(torch.autograd.Function):
    """With `weight` (members, d) the first dimension of `stream` counts members, each with a row of it."""

    @staticmethod
    def forward(stream: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        scale = torch.rsqrt(length.square() / stream.shape[-1] + eps)
        return (stream * scale).mul_(_beside(weight, stream)), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:2], output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None
        stream, weight, scale = ctx.saved_tensors
        d = stream.shape[-1]
        rows = (*weight.shape[:-1], -1, d)
        product = dy * stream
        with torch.autocast(dy.device.type, enabled=False):  # a caller may run the backward under autocast
            # how much of dy lies along the row
            along = product.reshape(rows) @ weight[..., None] if weight.dim() > 1 else product.reshape(rows) @ weight
        dweight = product.mul_(scale).reshape(rows).sum(-2)
        dstream = torch.mul(dy, _beside(weight, stream), out=product).mul_(scale)
        dstream.addcmul_(stream, along.view(scale.shape) * scale.pow(3) / d, value=-1)
        return dstream, dweight, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], stream: Tensor, weight: Tensor, eps: float
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Give each member its row of the weights."""
        members = info.batch_size
        outputs = _Norm.apply(first(stream, in_dims[0], members), first(weight, in_dims[1], members), eps)  # type: ignore[no-untyped-call]
        return outputs, (0, 0)


def _beside(weight: Tensor, stream: Tensor) -> Tensor:
    """View the weight so that it meets the rows of `stream`."""
    if weight.dim() == 1:
        return weight
    return weight.view(len(weight), *(1 for _ in stream.shape[1:-1]), weight.shape[-1])
