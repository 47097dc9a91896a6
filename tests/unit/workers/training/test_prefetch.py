"""Batches drawn ahead are those that would have been drawn, in time, and no others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.unit.workers.training.test_update import CPU, make_update
from workers.specs import MqarSpec, RunSpec, TaskSpec, TextSpec
from workers.tasks import Batch, build_task, bytestream
from workers.tasks.text import TextTask
from workers.training.prefetch import Prefetch, prefetches

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

CUDA = torch.device("cuda", 0)
TEXT = TextSpec(seqlen=16)


def of_task(spec: RunSpec, task: TaskSpec) -> RunSpec:
    return spec.model_copy(update={"task": task})


@pytest.mark.parametrize(
    "task", [TEXT, MqarSpec(seqlen=24, kv_pairs=(1, 6), vocab=16, curriculum=True)], ids=lambda task: task.name
)
def test_the_run_is_that_without_it(execute: Execute, make_spec: MakeSpec, task: TaskSpec) -> None:
    settings: dict[str, Any] = {"dropout": 0.1, "steps": 9, "log_every": 1, "eval_every": 4}
    ahead, within = (execute(of_task(make_spec(**settings, prefetch=mode), task)) for mode in ("on", "off"))
    assert ahead.curve() == within.curve()
    assert ahead.weights() == within.weights()
    assert [fact["prefetch"] for fact in ahead.sink.facts("memory")] == [True]
    assert [fact["prefetch"] for fact in within.sink.facts("memory")] == [False]


@pytest.mark.parametrize("stop", [1, 5])
def test_resumed_it_is_the_uninterrupted_run(execute: Execute, make_spec: MakeSpec, stop: int) -> None:
    spec = of_task(make_spec(steps=9, prefetch="on"), TEXT)
    whole = execute(spec)
    first = execute(spec, should_stop=iter([False] * stop + [True]).__next__)
    second = execute(spec, folder=first.folder, attempt=2)
    assert second.weights() == whole.weights()


def test_batches_are_drawn_by_another_thread_ahead_of_their_step(
    execute: Execute, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    sample = TextTask.sample

    def watched(self: TextTask, *rest: Any) -> Batch:
        threads.append(threading.current_thread().name)
        return sample(self, *rest)

    monkeypatch.setattr(TextTask, "sample", watched)
    execute(of_task(make_spec(steps=5, prefetch="on"), TEXT))
    assert len(threads) == 5  # none beyond the last step
    assert all(name.startswith("prefetch") for name in threads)


def test_the_next_step_s_batch_is_made_while_this_one_is_at_work() -> None:
    made: dict[int, threading.Event] = {step: threading.Event() for step in range(1, 5)}

    def make(step: int) -> int:
        made[step].set()
        return step

    prefetch = Prefetch(make, CPU, last=4)
    assert prefetch.take(1) == 1
    assert made[2].wait(10)
    assert made[3].wait(10)
    assert not made[4].is_set()
    assert [prefetch.take(step) for step in (2, 3, 4)] == [2, 3, 4]


def test_what_goes_wrong_in_the_thread_is_raised_at_its_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise RuntimeError("the file is gone")
        return step

    prefetch = Prefetch(make, CPU, last=3)
    assert prefetch.take(1) == 1
    with pytest.raises(RuntimeError, match="the file is gone"):
        prefetch.take(2)


def test_it_is_the_default_where_a_gpu_waits_for_host_memory(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, text = make_spec().train, build_task(TEXT)
    assert not prefetches(train, text, CPU)
    assert not prefetches(train, text, CUDA)  # the bundled text fits into the GPU's memory
    monkeypatch.setattr(bytestream, "_RESIDENT_LIMIT", 1000)
    assert prefetches(train, text, CUDA)
    assert not prefetches(train, build_task(make_spec().task), CUDA)
    assert not prefetches(make_spec(prefetch="off").train, text, CUDA)
    assert prefetches(make_spec(prefetch="on").train, build_task(make_spec().task), CPU)


def test_a_graph_is_refused(make_spec: MakeSpec) -> None:
    update, _ = make_update(of_task(make_spec(prefetch="on"), TEXT))
    assert "out of host memory" in update.refusal()
    assert make_update(of_task(make_spec(), TEXT))[0].refusal() == ""
