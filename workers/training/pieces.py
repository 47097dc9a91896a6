"""Pieces of one shape, read one after another with the state carried along, and recorded into a CUDA graph where they are many.

The models of an ensemble take a hundred small operations a piece from the host, which is then slower than the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.training.readers import Reader, States

RECORD_FROM = 3  # pieces still to be read: recording costs about as much as reading one, and what it frees of memory


class Pieces:
    """Reads pieces of `rows` sequences and `positions` positions each. Those whose features are not wanted are skipped."""

    def __init__(self, reader: Reader, rows: int, positions: int) -> None:
        self._reader = reader
        self._states = reader.begin(rows)
        self._tokens = torch.zeros(rows, positions, dtype=torch.int64, device=reader.placement.device)
        self._read, self._skip = _Way(self._advance), _Way(self._remember)
        self._refused = reader.placement.device.type != "cuda"

    @property
    def recorded(self) -> bool:
        """Whether there is a graph of them."""
        return self._read.graph is not None or self._skip.graph is not None

    def begin(self) -> None:
        """Forget what was read: the next piece begins new sequences."""
        for layer in self._states:
            for values in layer.values():
                values.zero_()

    def read(self, tokens: Tensor, left: int) -> Tensor:
        """Return the features of the next piece, valid until the one after it is read; `left` more will be read so."""
        features = self._go(self._read, tokens, left)
        assert features is not None
        return features

    def skip(self, tokens: Tensor, left: int) -> None:
        """Remember the next piece; `left` more will be skipped."""
        self._go(self._skip, tokens, left)

    def _go(self, way: _Way, tokens: Tensor, left: int) -> Tensor | None:
        if tokens.shape != self._tokens.shape:  # the last piece of sequences of another length
            return way.go(tokens)
        many = max(left, way.times) >= RECORD_FROM  # one that was gone so often will be again
        if way.graph is None and way.times and many and not self._refused:
            self._record(way)
        way.times += 1
        if way.graph is None:
            return way.go(tokens)
        self._tokens.copy_(tokens)
        way.graph.replay()
        return way.features

    def _advance(self, tokens: Tensor) -> Tensor:
        features, behind = self._reader.features(tokens, self._states)
        assert behind is not None
        _copy(self._states, behind)
        return features

    def _remember(self, tokens: Tensor) -> None:
        _copy(self._states, self._reader.advance(tokens, self._states))

    def _record(self, way: _Way) -> None:
        """Record a piece, where that is possible; nothing is read."""
        graph = torch.cuda.CUDAGraph()
        try:
            # a checkpoint may be on its way to the disk meanwhile, by another thread that asks things of CUDA
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                way.features = way.go(self._tokens)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._refused = True
            return
        way.graph = graph


@dataclass(slots=True)
class _Way:
    """A way to go past a piece: how, how often it was gone, and once it is recorded its graph, with what that returns."""

    go: Callable[[Tensor], Tensor | None]
    times: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    features: Tensor | None = None


def _copy(kept: States, behind: States) -> None:
    for layer, new in zip(kept, behind, strict=True):
        for name, values in layer.items():
            values.copy_(new[name])
