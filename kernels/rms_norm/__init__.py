"""The norm in front of each layer, fused with the residual addition."""

from kernels.rms_norm.api import NormOutput, rms_norm

__all__ = ["NormOutput", "rms_norm"]
