"""Work beside a step's chain of kernels, on a stream of its own, while the step is recorded into a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Beside:
    """Takes work off the chain where nothing waits for it before `join`; in line with it where no graph is recorded.

    Both ways give the same bits. Eagerly there is nothing to win: the device waits for launches, not for kernels.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._kept: list[Tensor] = []
        self._forked = False

    @contextlib.contextmanager
    def fork(self, *made_of: Tensor) -> Iterator[None]:
        """Do what follows beside the chain as it is now. What it is made of is kept up to the join."""
        if self._stream is None or not torch.cuda.is_current_stream_capturing():
            yield
            return
        self._kept += made_of  # else the chain would reuse their memory before they are read
        self._forked = True
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> object:
        """Return what `wait` takes, for all work that is beside the chain by now."""
        return self._stream.record_event() if self._forked and self._stream is not None else None

    def wait(self, mark: object) -> None:
        """Let the chain go on only once the work up to a mark is done; what came beside it since goes on."""
        if isinstance(mark, torch.cuda.Event):
            torch.cuda.current_stream(self._device).wait_event(mark)

    def join(self) -> None:
        """Let the chain go on only once all work beside it is done."""
        if self._forked and self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            self._forked = False
        self._kept.clear()
