"""Long causal convolution by FFT, with a gradient that reuses the forward's spectra.

Autograd through `torch.fft` would use complex transforms of the full length and one inverse transform a sequence for
the kernel's gradient. Here the backward is three real transforms, and the kernel's one is taken after the sum over
the batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.members import apart, side_by_side


def fft_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    """Return y[t] = sum over s <= t of kernel[t - s] u[s], for each channel.

    Shapes: u, y: (batch, seqlen, channels); kernel: (channels, seqlen). Dtypes: fp32 or fp64, both the same.
    Gradients: of both, once. Saved: their spectra, 8 bytes for each of 2 seqlen / 2 frequencies in fp32.
    """
    y: Tensor
    y, _, _ = _FftConvolution.apply(u, kernel)  # type: ignore[no-untyped-call]
    return y


class _FftConvolution(torch.autograd.Function):
    """Returns y, and the spectra, which the backward uses again."""

    @staticmethod
    def forward(u: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seqlen = u.shape[1]
        length = fast_length(2 * seqlen - 1)  # linear, not circular
        u_spectrum = torch.fft.rfft(u.transpose(1, 2), length)
        kernel_spectrum = torch.fft.rfft(kernel, length)
        return _inverse(u_spectrum * kernel_spectrum, length, seqlen).transpose(1, 2), u_spectrum, kernel_spectrum

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.seqlen = inputs[0].shape[1]
        ctx.length = fast_length(2 * ctx.seqlen - 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None]:
        if dy is None:
            return None, None
        u_spectrum, kernel_spectrum = ctx.saved_tensors
        spectrum = torch.fft.rfft(dy.transpose(1, 2), ctx.length)
        du = dkernel = None
        if ctx.needs_input_grad[1]:
            dkernel = _inverse((spectrum * u_spectrum.conj()).sum(0), ctx.length, ctx.seqlen)
        if ctx.needs_input_grad[0]:
            du = _inverse(spectrum * kernel_spectrum.conj(), ctx.length, ctx.seqlen).transpose(1, 2)
        return du, dkernel

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], u: Tensor, kernel: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, None, None]]:
        """Take the members of an ensemble as channels."""
        members = info.batch_size
        merged = side_by_side(u, in_dims[0], 2, members), side_by_side(kernel, in_dims[1], 0, members)
        y, *spectra = _FftConvolution.apply(*merged)  # type: ignore[no-untyped-call]
        return (apart(y, 2, members), spectra[0], spectra[1]), (2, None, None)


def _inverse(spectrum: Tensor, length: int, seqlen: int) -> Tensor:
    signal: Tensor = torch.fft.irfft(spectrum, length)
    return signal[..., :seqlen]


@lru_cache(maxsize=256)
def fast_length(at_least: int) -> int:
    """Return the least even number of factors 2, 3 and 5 that is not below `at_least`: transforms of it are fast."""
    best = 1 << max(1, (at_least - 1).bit_length())
    for fives in (5**k for k in range(12)):
        for odd in (fives * 3**k for k in range(20)):
            if odd < best:
                twos = max(1, (-(-at_least // odd) - 1).bit_length())
                best = min(best, odd << twos)
    return best
