"""A task whose data changes in the course of a run: in order, the same for the same spec, resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from workers.specs import MqarSpec, RunSpec
from workers.tasks import IGNORE, Batch
from workers.tasks.mqar import MqarTask

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

STEPS = 9


@pytest.fixture(scope="module")
def spec(make_spec: MakeSpec) -> RunSpec:
    """Three stages of three steps: 4 pairs, 1 pair, 3 pairs."""
    task = MqarSpec(seqlen=16, kv_pairs=(4, 1, 3), vocab=12, curriculum=True)
    return make_spec(steps=STEPS, dropout=0.2, log_every=2, eval_every=4).model_copy(update={"task": task})


def mixed(spec: RunSpec) -> RunSpec:
    return spec.model_copy(update={"task": spec.task.model_copy(update={"curriculum": False})})


def test_the_loop_takes_the_stages_in_turn(execute: Execute, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, set[int]]] = []
    original = MqarTask.sample_at

    def watched(self: MqarTask, *args: Any) -> Batch:
        batch = original(self, *args)
        seen.append((args[-1], set((batch.targets != IGNORE).sum(1).tolist())))
        return batch

    monkeypatch.setattr(MqarTask, "sample_at", watched)
    execute(spec)
    stages = [4, 4, 4, 1, 1, 1, 3, 3, 3]
    assert seen == [((step - 1) / STEPS, {stages[step - 1]}) for step in range(1, STEPS + 1)]


def test_it_is_repeated_bit_for_bit_and_differs_from_the_mixture(execute: Execute, spec: RunSpec) -> None:
    first, second = execute(spec), execute(spec)
    assert first.curve() == second.curve()
    assert first.weights() == second.weights()
    assert execute(mixed(spec)).weights() != first.weights()


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8])
def test_stopped_in_any_stage_and_resumed_it_is_the_uninterrupted_run(
    execute: Execute, spec: RunSpec, stop: int
) -> None:
    whole = execute(spec)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > stop

    first = execute(spec, should_stop=should_stop)
    assert first.result.status == "stopped"
    second = execute(spec, folder=first.folder, attempt=2)
    assert {**first.curve(), **second.curve()} == whole.curve()
    assert second.weights() == whole.weights()


def test_micro_batches_are_cut_from_the_stage_s_batch(execute: Execute, spec: RunSpec) -> None:
    """Equal up to the order of fp32 sums, as in `test_accumulate.py`; dropout draws other masks, so it is off."""
    still = spec.model_copy(update={"model": spec.model.model_copy(update={"dropout": 0.0})})
    cut = still.model_copy(update={"train": still.train.model_copy(update={"accumulate": 2})})
    assert execute(cut).curve() == pytest.approx(execute(still).curve(), rel=1e-4)
