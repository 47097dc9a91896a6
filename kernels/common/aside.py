"""Where a backward pass may do what nothing later in it reads: the last sums of a parameter's gradient.

They are done in line unless a caller names another place for them, such as a stream beside the chain of kernels while a
training step is recorded into a graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class Place(Protocol):
    """Where such work goes."""

    def used(self, parameter: Tensor) -> None:
        """Take note that a forward pass has read a tensor that may be a parameter."""

    def aside(self, parameter: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
        """Do what follows, which makes a parameter's gradient of some tensors, at this place."""


class _InLine:
    def used(self, parameter: Tensor) -> None: ...

    def aside(self, parameter: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002
        return contextlib.nullcontext()


_IN_LINE = _InLine()
_places: list[Place] = [_IN_LINE]  # not of a thread: autograd goes back on threads of its own


@contextlib.contextmanager
def taking(place: Place) -> Iterator[None]:
    """Let a place take the work of all passes inside."""
    _places.append(place)
    try:
        yield
    finally:
        _places.pop()


def used(parameter: Tensor) -> None:
    """Tell the place that a forward pass has read a tensor."""
    _places[-1].used(parameter)


def aside(parameter: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
    """Do what follows where the place says."""
    return _places[-1].aside(parameter, *made_of)
