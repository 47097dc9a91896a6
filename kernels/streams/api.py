"""The public functions: what a stream is, and draws from several at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.common.choice import wants_triton

_BLOCK = 256  # threads of a block in which PyTorch draws
_WIDE = 2**28  # a range from which on PyTorch takes 64 bits a number


@dataclass(slots=True)
class Stream:
    """Where streams stand that are drawn from alike: one a seed.

    Args:
        seeds: int64 (streams,), what `torch.Generator.manual_seed` would be given.
        threads: how many PyTorch has at work in one draw at the most: those that the device holds at once.
        offset: counts of Philox that each has used.
    """

    seeds: Tensor
    threads: int
    offset: int = 0

    @classmethod
    def of(cls, seeds: Tensor) -> Stream:
        """Return streams at their beginning, on the device of their seeds."""
        if not seeds.is_cuda:
            return cls(seeds, 2**30 // _BLOCK * _BLOCK)
        properties = torch.cuda.get_device_properties(seeds.device)
        blocks = properties.max_threads_per_multi_processor // _BLOCK
        return cls(seeds, properties.multi_processor_count * blocks * _BLOCK)

    def advance(self, count: int, per_call: int) -> tuple[int, int]:
        """Take so many numbers; return the offset before them, and with how many threads PyTorch draws them."""
        threads = min(self.threads, -(-count // _BLOCK) * _BLOCK)
        before = self.offset
        self.offset += -(-count // (threads * per_call))
        return before, threads


def serves(device: torch.device) -> bool:
    """Say whether numbers can be drawn so on a device."""
    return wants_triton("streams", "auto", device.type)


def draw_integers(stream: Stream, low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return (streams, *shape) integers in [low, high): what `torch.randint` gives on CUDA with a generator for each stream.

    The numbers are PyTorch's bit for bit as long as it draws as it did in 2.11, which a caller can check by one draw of each.
    """
    return _draw(stream, shape, dtype, low, high - low)


def draw_uniform(stream: Stream, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return (streams, *shape) numbers in [0, 1), as `torch.rand` in fp32 or fp64; see `draw_integers`."""
    return _draw(stream, shape, dtype, 0, 0)


def _draw(stream: Stream, shape: tuple[int, ...], dtype: torch.dtype, low: int, span: int) -> Tensor:
    module: Any = _triton()
    out = torch.empty((len(stream.seeds), *shape), dtype=dtype, device=stream.seeds.device)
    pairs = span >= _WIDE or dtype == torch.float64
    if out.numel():
        before, threads = stream.advance(out[0].numel(), 2 if pairs else 4)
        module.draw(out, stream.seeds, before, threads, low=low, span=span, pairs=pairs)
    return out


def _triton() -> Any:
    from kernels.streams import triton_op

    return triton_op
