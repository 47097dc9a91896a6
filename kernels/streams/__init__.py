"""Random numbers of several streams at once: those of PyTorch's own generators, from seeds that lie on the device."""

from kernels.streams.api import Stream, draw_integers, draw_uniform, serves

__all__ = ["Stream", "draw_integers", "draw_uniform", "serves"]
