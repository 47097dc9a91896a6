"""Work that a backward pass may do elsewhere."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from kernels.common.aside import aside, taking, used


class Place:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def used(self, parameter: Tensor) -> None:
        self.seen.append(f"used {parameter.numel()}")

    def aside(self, parameter: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
        self.seen.append(f"aside {parameter.numel()} of {len(made_of)}")
        return contextlib.nullcontext()


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
