"""The short depthwise convolution in front of the scan, over a whole sequence and one position at a time."""

from kernels.causal_conv1d.api import ConvOutput, causal_conv1d, causal_conv1d_update

__all__ = ["ConvOutput", "causal_conv1d", "causal_conv1d_update"]
