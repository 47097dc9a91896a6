"""Work beside a step's chain of kernels, on streams of its own, while the step is recorded into a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Beside:
    """Takes work off the chain where nothing waits for it before `join`; in line with it where no graph is recorded.

    Both ways give the same bits. Eagerly there is nothing to win: the device waits for launches, not for kernels.
    What is loose has a stream of its own, so that neither it nor the other work beside the chain waits for the other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(2)] if device.type == "cuda" else []  # type: ignore[no-untyped-call]
        self._kept: list[Tensor] = []
        self._forked = [False, False]

    @contextlib.contextmanager
    def fork(self, *made_of: Tensor, loose: bool = False) -> Iterator[None]:
        """Do what follows beside the chain as it is now. What it is made of is kept up to the join.

        What is loose follows the chain alone; all else also follows what came beside the chain before and was not loose.
        """
        if not self._streams or not torch.cuda.is_current_stream_capturing():
            yield
            return
        self._kept += made_of  # else the chain would reuse their memory before they are read
        self._forked[loose] = True
        stream = self._streams[loose]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            yield

    def mark(self) -> object:
        """Return what `wait` takes, for all work that is beside the chain by now and not loose."""
        return self._streams[False].record_event() if self._forked[False] else None

    def wait(self, mark: object) -> None:
        """Let the chain go on only once the work up to a mark is done; what came beside it since goes on."""
        if isinstance(mark, torch.cuda.Event):
            torch.cuda.current_stream(self._device).wait_event(mark)

    def join(self) -> None:
        """Let the chain go on only once all work beside it is done."""
        for place, forked in enumerate(self._forked):
            if forked:
                torch.cuda.current_stream(self._device).wait_stream(self._streams[place])
                self._forked[place] = False
        self._kept.clear()
