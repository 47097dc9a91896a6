"""Pieces of one shape, read one after another with the state carried along, and recorded into a CUDA graph where they are many.

The models of an ensemble take a hundred small operations a piece from the host, which is then slower than the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.training.readers import Reader, States

RECORD_FROM = 3  # pieces still to be read: recording costs about as much as reading one, and what it frees of memory


class Pieces:
    """Reads pieces of `rows` sequences and `positions` positions each."""

    def __init__(self, reader: Reader, rows: int, positions: int) -> None:
        self._reader = reader
        self._states = reader.begin(rows)
        self._tokens = torch.zeros(rows, positions, dtype=torch.int64, device=reader.placement.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._features: Tensor | None = None
        self._refused = reader.placement.device.type != "cuda"
        self._read_before = False

    @property
    def recorded(self) -> bool:
        """Whether there is a graph of them."""
        return self._graph is not None

    def begin(self) -> None:
        """Forget what was read: the next piece begins new sequences."""
        for layer in self._states:
            for values in layer.values():
                values.zero_()

    def read(self, tokens: Tensor, left: int) -> Tensor:
        """Return the features of the next piece, valid until the one after it is read; `left` more pieces will come."""
        if tokens.shape != self._tokens.shape:  # the last piece of sequences of another length
            return self._advance(tokens)
        if self._graph is None and self._read_before and left >= RECORD_FROM and not self._refused:
            self._record()
        self._read_before = True
        if self._graph is None or self._features is None:
            return self._advance(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._features

    def _advance(self, tokens: Tensor) -> Tensor:
        features, behind = self._reader.features(tokens, self._states)
        assert behind is not None
        _copy(self._states, behind)
        return features

    def _record(self) -> None:
        """Record a piece, where that is possible; nothing is read."""
        graph = torch.cuda.CUDAGraph()
        try:
            # a checkpoint may be on its way to the disk meanwhile, by another thread that asks things of CUDA
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._features = self._advance(self._tokens)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._refused = True
            return
        self._graph = graph


def _copy(kept: States, behind: States) -> None:
    for layer, new in zip(kept, behind, strict=True):
        for name, values in layer.items():
            values.copy_(new[name])
