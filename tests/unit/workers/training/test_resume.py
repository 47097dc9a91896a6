"""An interrupted run is the same run: same curve, same parameters, bit for bit on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, Executed, MakeSpec

STEPS = 20


class StopAfter:
    """Asks for a stop once it was asked so many times, which is so many steps where nothing else asks."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="session")
def whole(execute: Execute, make_spec: MakeSpec) -> Executed:
    return execute(make_spec(steps=STEPS, dropout=0.2, eval_every=7))


@settings(max_examples=12, deadline=None)
@given(asked=st.lists(st.integers(0, 12), min_size=1, max_size=3), checkpoint_every=st.integers(0, 9))
def test_stopped_anywhere_and_resumed_it_is_the_uninterrupted_run(
    execute: Execute, make_spec: MakeSpec, whole: Executed, asked: list[int], checkpoint_every: int
) -> None:
    spec = make_spec(steps=STEPS, dropout=0.2, eval_every=7, checkpoint_every=checkpoint_every)
    folder, curve = None, {}
    for times in [*asked, 1000]:
        ran = execute(spec, folder=folder, should_stop=StopAfter(times))
        folder = ran.folder
        curve.update(ran.curve())
    assert ran.result.status == "completed"
    assert curve == whole.curve()
    assert ran.weights() == whole.weights()


class Killed(BaseException):
    """As abrupt as a signal: nothing gets to save."""


class KillAfter(StopAfter):
    """Ends the run on the spot instead of asking for a stop."""

    def __call__(self) -> bool:
        if super().__call__():
            raise Killed
        return False


@pytest.mark.parametrize(("times", "saved"), [(3, 0), (5, 0), (6, 6), (11, 6), (16, 12), (25, 18)])
def test_a_killed_run_repeats_the_steps_since_its_checkpoint_exactly(
    execute: Execute, make_spec: MakeSpec, whole: Executed, tmp_path: Path, times: int, saved: int
) -> None:
    spec = make_spec(steps=STEPS, dropout=0.2, eval_every=7, checkpoint_every=6)
    with pytest.raises(Killed):
        execute(spec, folder=tmp_path, should_stop=KillAfter(times))
    ran = execute(spec, folder=tmp_path, attempt=2)
    assert ran.result.resumed_from == saved
    assert ran.curve() == {key: value for key, value in whole.curve().items() if key[0] > saved}
    assert ran.weights() == whole.weights()


def test_more_steps_continue_the_same_curve(execute: Execute, make_spec: MakeSpec, whole: Executed) -> None:
    short = execute(make_spec(steps=8, dropout=0.2, eval_every=7))
    longer = execute(make_spec(steps=STEPS, dropout=0.2, eval_every=7), folder=short.folder, attempt=2)
    assert longer.result.resumed_from == 8
    assert longer.weights() == whole.weights()


def test_a_completed_run_started_again_computes_nothing(execute: Execute, make_spec: MakeSpec, whole: Executed) -> None:
    again = execute(make_spec(steps=STEPS, dropout=0.2, eval_every=7), folder=whole.folder, attempt=2)
    assert again.sink.rows == []
    assert again.result.step == STEPS
    assert again.result.metrics == whole.result.metrics
    assert again.result.train_seconds == whole.result.train_seconds


def test_a_stopped_run_says_so_and_leaves_a_checkpoint(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(), should_stop=StopAfter(5))
    assert (ran.result.status, ran.result.reason, ran.result.step) == ("stopped", "stopped", 5)
    assert ran.result.checkpoint == "checkpoints/step-000005"


def test_a_run_stopped_before_its_first_step_has_no_checkpoint(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(), should_stop=StopAfter(0))
    assert (ran.result.status, ran.result.step, ran.result.checkpoint) == ("stopped", 0, None)


def test_two_runs_in_one_process_are_equal(execute: Execute, make_spec: MakeSpec, whole: Executed) -> None:
    again = execute(make_spec(steps=STEPS, dropout=0.2, eval_every=7))
    assert again.curve() == whole.curve()
    assert again.weights() == whole.weights()


def test_another_seed_is_another_curve(execute: Execute, make_spec: MakeSpec, whole: Executed) -> None:
    other = execute(make_spec(steps=STEPS, dropout=0.2, eval_every=7, seed=1))
    assert other.sink.series("train/loss") != whole.sink.series("train/loss")


def test_evaluation_does_not_disturb_training(execute: Execute, make_spec: MakeSpec, whole: Executed) -> None:
    without = execute(make_spec(steps=STEPS, dropout=0.2))
    assert without.sink.series("train/loss") == whole.sink.series("train/loss")
    assert without.weights() == whole.weights()
