"""Rates count training alone."""

from __future__ import annotations

import time

import pytest
import torch

from workers.training.clock import StepClock
from workers.training.precision import Placement

CPU = Placement(torch.device("cpu"), 1, "fp32", "test")


class Hands:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(time, "perf_counter", hands)
    return hands


def test_pauses_count_for_nothing(hands: Hands) -> None:
    clock = StepClock(CPU)
    for _ in range(10):
        hands.now += 0.5
    with clock.paused("evaluation"):
        hands.now += 1000
    assert clock.lap(10) == 2.0
    assert clock.total() == 5.0


def test_a_lap_begins_where_the_last_ended(hands: Hands) -> None:
    clock = StepClock(CPU)
    hands.now += 9
    clock.lap(1)
    hands.now += 1
    assert clock.lap(4) == 4.0
    assert clock.lap(1) == 0.0


def test_a_pause_that_fails_still_ends(hands: Hands) -> None:
    clock = StepClock(CPU)

    def fail() -> None:
        with clock.paused("evaluation"):
            hands.now += 50
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    hands.now += 1
    assert clock.total() == 1.0
