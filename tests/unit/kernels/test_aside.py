"""Work that a backward pass may do elsewhere."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from kernels.common.aside import aside, room, taking, used


class Place:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.memory = torch.zeros(6)

    def used(self, parameter: Tensor) -> None:
        self.seen.append(f"used {parameter.numel()}")

    def aside(self, parameter: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
        self.seen.append(f"aside {parameter.numel()} of {len(made_of)}")
        return contextlib.nullcontext()

    def room(self, parameter: Tensor) -> Tensor | None:
        return self.memory if parameter.numel() == 6 else None


def work() -> None:
    used(torch.ones(3))
    with aside(torch.ones(3), torch.ones(1), torch.ones(1)):
        pass


def test_it_goes_to_the_innermost_place() -> None:
    outer, inner = Place(), Place()
    with taking(outer):
        with taking(inner):
            work()
        assert outer.seen == []
        work()
    assert inner.seen == outer.seen == ["used 3", "aside 3 of 2"]


def test_without_a_place_it_is_done_in_line() -> None:
    place = Place()
    with contextlib.suppress(ValueError), taking(place):
        raise ValueError
    work()
    assert place.seen == []


def test_a_gradient_lies_where_the_place_says() -> None:
    place, parameter = Place(), torch.ones(2, 3, dtype=torch.float32)
    with taking(place):
        found, other = room(parameter), room(torch.ones(2, 2, dtype=torch.float64))
    assert found.data_ptr() == place.memory.data_ptr()
    assert found.shape == (2, 3)
    assert (other.shape, other.dtype) == ((2, 2), torch.float64)
    assert room(parameter).data_ptr() != place.memory.data_ptr()
