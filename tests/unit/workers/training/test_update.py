"""The seam between what the host does for a step and what the device does, and the window that the steps fill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from workers.models import build_model
from workers.specs import RunSpec
from workers.tasks import Batch, build_task
from workers.training.determinism import derive_seed
from workers.training.optim import build_optimizer
from workers.training.precision import place
from workers.training.update import EagerStepper, RunUpdate
from workers.training.window import Window

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

CPU = torch.device("cpu")


def make_update(spec: RunSpec) -> tuple[RunUpdate, torch.nn.Module]:
    task = build_task(spec.task)
    torch.manual_seed(3)
    model = build_model(spec.model, task.vocab_size)
    optimizer = build_optimizer(model, spec.train)
    return RunUpdate(spec, task=task, model=model, optimizer=optimizer, placement=place(spec)), model


def test_slots_hold_steps_that_are_computed_later(make_spec: MakeSpec) -> None:
    """Prepared at once and computed after each other, three steps are those of one slot used three times."""
    spec = make_spec(schedule="cosine", warmup_steps=2)
    one, model_one = make_update(spec)
    window = Window(3, CPU)
    EagerStepper(one, window).advance(range(1, 4), measure=True)

    many, model_many = make_update(spec)
    many.reserve(3)
    many.prepare(range(1, 4))
    batches = [many.draw(slot) for slot in range(3)]
    rows = torch.stack([many.outcome(many.compute(batch, slot, measure=True)) for slot, batch in enumerate(batches)])
    losses, norms, accuracy = window.cut().wait()
    assert rows[:, :2].T.tolist() == [losses, norms]
    assert rows[-1, 2] == accuracy
    for mine, theirs in zip(model_one.parameters(), model_many.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_step_s_batch_depends_on_the_seed_and_the_step_alone(make_spec: MakeSpec) -> None:
    spec = make_spec(seed=7)
    update, _ = make_update(spec)
    update.reserve(2)
    update.prepare(range(1, 3))
    update.draw(0)
    update.prepare(range(4, 6))
    generator = torch.Generator().manual_seed(derive_seed(7, "data", 5))
    expected = build_task(spec.task).sample(generator, spec.train.batch_size, CPU)
    drawn = update.draw(1).whole
    assert torch.equal(drawn.inputs, expected.inputs)
    assert torch.equal(drawn.targets, expected.targets)


class Members:
    """Two members whose losses are step and 10 x step: what an ensemble's update looks like to a stepper."""

    members = (2,)

    def __init__(self) -> None:
        self.step = 0
        self.measured: list[int] = []

    def reserve(self, slots: int) -> None: ...

    def streams(self, slots: int) -> tuple[torch.Generator, ...]:
        return ()

    def prepare(self, steps: range) -> None:
        (self.step,) = steps

    def draw(self, slot: int) -> Batch:
        return Batch(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))

    def compute(self, batch: Batch, slot: int, *, measure: bool) -> Tensor:
        if measure:
            self.measured.append(self.step)
        loss = torch.tensor([1.0, 10.0]) * self.step
        return torch.stack((loss, loss + 0.5, loss / 100))

    def outcome(self, done: Tensor) -> Tensor:
        return done

    def stage(self, step: int) -> None: ...

    def refusal(self) -> str:
        return ""


def test_an_update_with_members_fills_the_window_with_vectors() -> None:
    update, window = Members(), Window(4, CPU, members=(2,))
    EagerStepper(update, window).advance(range(1, 4), measure=True)
    assert window.read() == ([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], [[1.5, 10.5], [2.5, 20.5], [3.5, 30.5]])
    assert window.cut().wait()[2] == pytest.approx([0.03, 0.3])
    assert update.measured == [3]


@pytest.mark.parametrize(("members", "losses"), [((), [1.0, 2.0]), ((3,), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])])
def test_a_window_goes_on_from_a_checkpoint(members: tuple[int, ...], losses: list[Any]) -> None:
    window = Window(2, CPU, losses=losses, norms=losses[::-1], members=members)
    assert window.read() == (losses, losses[::-1])
    window.record(torch.full((1, 3, *members), 7.0))
    assert window.length == 3
    assert window.read()[0][:2] == losses
    assert window.cut().wait()[2] == ([7.0] * members[0] if members else 7.0)
    assert window.read() == ([], [])


def test_rows_that_were_cut_are_not_those_written_later() -> None:
    window = Window(1, CPU)
    window.record(torch.full((1, 3), 1.0))
    earlier = window.cut()
    window.record(torch.full((1, 3), 2.0))
    assert earlier.wait() == ([1.0], [1.0], 1.0)


def test_rows_come_at_the_same_steps_whatever_lies_between(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(steps=11, log_every=4, eval_every=3, checkpoint_every=5))
    assert list(ran.sink.series("train/loss")) == [1, 4, 8, 11]
    assert list(ran.sink.series("valid/loss")) == [3, 6, 9, 11]
    assert [note["step"] for note in ran.sink.facts("checkpoint")] == [5, 10, 11]
