"""RMSNorm after a residual addition, in plain PyTorch with its own backward.

On a CPU autograd's backward of the formula takes twice as long, and so does `F.rms_norm`'s (docs/LOG.md, "The convolution
and the norm on a CPU").
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.checks import state_dtype


def rms_norm_torch(
    x: Tensor, weight: Tensor, *, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream; see `rms_norm`. Arguments are taken as checked."""
    dtype = state_dtype(x)
    stream = x.to(dtype) if residual is None else x.to(dtype) + residual.to(dtype)
    y = _Norm.apply(stream, weight.to(dtype), eps)  # type: ignore[no-untyped-call]
    return y.to(x.dtype), stream


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        scale = torch.rsqrt(length.square() / stream.shape[-1] + eps)
        ctx.save_for_backward(stream, weight, scale)
        return (stream * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        stream, weight, scale = ctx.saved_tensors
        d = stream.shape[-1]
        product = dy * stream
        with torch.autocast(dy.device.type, enabled=False):  # a caller may run the backward under autocast
            along = (product.reshape(-1, d) @ weight).view(scale.shape)  # how much of dy lies along the row
        dweight = product.mul_(scale).reshape(-1, d).sum(0)
        dstream = torch.mul(dy, weight, out=product).mul_(scale)
        dstream.addcmul_(stream, along * scale.pow(3) / d, value=-1)
        return dstream, dweight, None
