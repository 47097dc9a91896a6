"""RMSNorm after a residual addition, in plain PyTorch."""

from torch import Tensor

from kernels.rms_norm.reference import rms_norm_reference


def rms_norm_torch(
    x: Tensor, weight: Tensor, *, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream; see `rms_norm`. Arguments are taken as checked."""
    return rms_norm_reference(x, weight, residual=residual, eps=eps)
