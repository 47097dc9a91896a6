"""The learning rate: its landmarks, and the properties that hold for every spec."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.specs import TrainSpec
from workers.training.schedule import learning_rate

SPECS = st.builds(
    TrainSpec,
    steps=st.integers(1, 5000),
    lr=st.floats(1e-6, 1.0),
    min_lr=st.floats(0, 1e-6),
    warmup_steps=st.integers(0, 6000),
    schedule=st.sampled_from(["constant", "cosine"]),
)


@given(SPECS, st.integers(1, 7000))
def test_the_rate_stays_between_zero_and_its_peak(train: TrainSpec, step: int) -> None:
    assert 0 <= learning_rate(train, step) <= train.lr * (1 + 1e-12)


@given(SPECS)
def test_warmup_rises_in_equal_parts_to_the_peak(train: TrainSpec) -> None:
    for step in range(1, min(train.warmup_steps, 50) + 1):
        assert learning_rate(train, step) == pytest.approx(train.lr * step / train.warmup_steps)


@given(SPECS, st.integers(1, 5000))
def test_after_warmup_the_rate_never_rises(train: TrainSpec, offset: int) -> None:
    step = train.warmup_steps + offset
    assert learning_rate(train, step + 1) <= learning_rate(train, step)


@given(SPECS.filter(lambda train: train.warmup_steps < train.steps and train.schedule == "cosine"))
def test_a_cosine_ends_at_min_lr_and_stays_there(train: TrainSpec) -> None:
    assert learning_rate(train, train.steps) == pytest.approx(train.min_lr)
    assert learning_rate(train, train.steps + 100) == pytest.approx(train.min_lr)


def test_half_way_a_cosine_is_half_way() -> None:
    train = TrainSpec(steps=110, warmup_steps=10, lr=1.0, min_lr=0.2, schedule="cosine")
    assert learning_rate(train, 10) == 1.0
    assert learning_rate(train, 60) == pytest.approx(0.6)


def test_a_constant_rate_does_not_know_the_number_of_steps() -> None:
    short, long = TrainSpec(steps=10, warmup_steps=5), TrainSpec(steps=1000, warmup_steps=5)
    assert [learning_rate(short, k) for k in range(1, 11)] == [learning_rate(long, k) for k in range(1, 11)]


def test_steps_count_from_one() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        learning_rate(TrainSpec(), 0)
