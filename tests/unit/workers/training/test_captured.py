"""Recorded steps: when they are recorded, what is replayed, and what happens where they cannot be.

No graph can be had without CUDA, so a recorder stands in that keeps what it is given and computes it at each replay, as a
graph would: with the slots as they are then. tests/parity/test_captured_step.py records real graphs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.unit.workers.training.test_update import CPU, make_update
from workers.specs import MqarSpec, RunSpec
from workers.training import MemorySink
from workers.training.captured import (
    CapturedStepper,
    Replay,
    asked_at,
    build_stepper,
    steps_per_replay,
)
from workers.training.errors import CaptureError
from workers.training.precision import place
from workers.training.update import EagerStepper, Update
from workers.training.window import Window

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

STEPS = 14


@dataclass
class Played:
    """A stand-in for a graph."""

    update: Update
    rows: torch.Tensor
    measure: bool
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        batches = [self.update.draw(slot) for slot in range(len(self.rows))]
        for slot, batch in enumerate(batches):
            last = slot == len(batches) - 1
            done = self.update.compute(batch, slot, measure=self.measure and last)
            self.rows[slot] = self.update.outcome(done)


@dataclass
class Stand:
    """Records without CUDA; `waits` are places that a watched step seems to wait at, `fails` how recording goes wrong."""

    waits: Sequence[str] = ()
    fails: RuntimeError | None = None
    recorded: list[Played] = field(default_factory=list)

    def record(self, update: Update, slots: int, *, measure: bool) -> Replay:
        if self.fails is not None:
            raise self.fails
        self.recorded.append(Played(update, torch.zeros(slots, 3, *update.members), measure))
        return self.recorded[-1]

    @contextlib.contextmanager
    def watch(self) -> Iterator[Sequence[str]]:
        yield self.waits

    def sizes(self) -> list[tuple[int, bool, int]]:
        return [(len(played.rows), played.measure, played.replays) for played in self.recorded]


def follow(spec: RunSpec, recorder: Stand | None) -> tuple[list[Any], list[torch.Tensor], list[Mapping[str, Any]]]:
    """Train as the loop does with rows at 1, 4, 8, 12 and 14; return what the rows held, the parameters and the reports."""
    update, model = make_update(spec)
    window, reports = Window(8, CPU), list[Mapping[str, Any]]()
    stepper = (
        EagerStepper(update, window)
        if recorder is None
        else CapturedStepper(update, window, steps_per_replay=4, recorder=recorder, report=reports.append)
    )
    rows, step = [], 0
    for boundary in (1, 4, 8, 12, STEPS):
        while step < boundary:
            steps = range(step + 1, boundary + 1)[: stepper.most]
            stepper.advance(steps, measure=steps[-1] == boundary)
            step = steps[-1]
        rows.append(window.cut().wait())
    return rows, list(model.parameters()), reports


def equal(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


@pytest.fixture
def spec(make_spec: MakeSpec) -> RunSpec:
    return make_spec(steps=STEPS, schedule="cosine", warmup_steps=3)


def test_replayed_steps_are_the_eager_ones(spec: RunSpec) -> None:
    rows, parameters, _ = follow(spec, None)
    recorder = Stand()
    replayed_rows, replayed, reports = follow(spec, recorder)
    assert replayed_rows == rows
    assert equal(replayed, parameters)
    # 1 .. 3 are eager; 4 alone up to its row, 5 .. 8 and 9 .. 12 four at a time, 13 and 14 singly again
    assert recorder.sizes() == [(1, True, 2), (4, True, 2), (1, False, 1)]
    assert reports == [{"mode": "captured", "why": "", "steps_per_replay": 4}]


@pytest.mark.parametrize(
    ("recorder", "why"),
    [
        (Stand(waits=["text.py:12", "text.py:12"]), "a step waits for the device at text.py:12"),
        (Stand(fails=RuntimeError("operation not permitted\nCompile with DSA")), "operation not permitted"),
    ],
    ids=["waits", "fails"],
)
def test_where_recording_is_impossible_the_run_goes_on_eagerly_and_says_so_once(
    spec: RunSpec, recorder: Stand, why: str
) -> None:
    rows, parameters, _ = follow(spec, None)
    other_rows, others, reports = follow(spec, recorder)
    assert other_rows == rows
    assert equal(others, parameters)
    (report,) = reports
    assert report["mode"] == "eager"
    assert report["steps_per_replay"] == 1
    assert str(report["why"]).endswith(why)


def test_the_reason_is_the_first_error_not_the_one_of_ending_the_capture(spec: RunSpec) -> None:
    broken = RuntimeError("invalid capture")
    broken.__context__ = RuntimeError("cannot read the host's memory")
    _, _, reports = follow(spec, Stand(fails=broken))
    assert reports[0]["why"] == "recording a step failed: cannot read the host's memory"


def test_a_new_stage_of_a_curriculum_is_recorded_anew(make_spec: MakeSpec) -> None:
    """Two stages of seven steps: nothing that was recorded in the first may be replayed in the second."""
    task = MqarSpec(seqlen=16, kv_pairs=(1, 3), vocab=12, curriculum=True)
    spec = make_spec(steps=STEPS).model_copy(update={"task": task})
    rows, parameters, _ = follow(spec, None)
    recorder = Stand()
    replayed_rows, replayed, _ = follow(spec, recorder)
    assert replayed_rows == rows
    assert equal(replayed, parameters)
    # 5 .. 8 crosses into the second stage, so its steps are done singly
    assert recorder.sizes() == [(1, True, 1), (1, False, 3), (1, True, 2), (4, True, 1), (1, False, 1)]


@pytest.mark.parametrize(
    ("log_every", "operations", "steps"),
    [(10, 1e9, 10), (100, 1e9, 10), (64, 1e9, 16), (1, 1e9, 1), (3, 1e9, 3), (17, 1e9, 8), (10, 1e13, 1)],
)
def test_a_graph_holds_as_many_steps_as_fit_between_two_rows(log_every: int, operations: float, steps: int) -> None:
    assert steps_per_replay(log_every, operations) == steps


@pytest.mark.parametrize(
    ("capture", "why"), [("auto", "graphs need CUDA, and the run is on cpu"), ("off", "train.capture is 'off'")]
)
def test_on_a_cpu_steps_are_eager_without_a_warning(
    execute: Execute, make_spec: MakeSpec, capture: str, why: str
) -> None:
    ran = execute(make_spec(steps=2, capture=capture))
    assert ran.sink.facts("step") == [{"mode": "eager", "why": why, "steps_per_replay": 1}]
    assert ran.sink.facts("warning") == []


def test_what_must_be_captured_and_cannot_ends_the_run(execute: Execute, make_spec: MakeSpec) -> None:
    with pytest.raises(CaptureError, match="train.capture is 'on', but .*graphs need CUDA.* Use 'auto'"):
        execute(make_spec(steps=2, capture="on"))


def test_an_update_may_refuse_by_itself(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    update, _ = make_update(spec)
    monkeypatch.setattr(update, "refusal", lambda: "its streams live on the host")
    on_gpu = place(spec)
    object.__setattr__(on_gpu, "device", torch.device("cuda", 0))
    sink = MemorySink()
    stepper = build_stepper(update, Window(1, CPU), spec.train, on_gpu, sink, operations=1.0)
    assert isinstance(stepper, EagerStepper)
    assert sink.facts("step")[0]["why"] == "its streams live on the host"
    assert "its streams live on the host" in str(sink.facts("warning"))


def test_a_run_may_be_resumed_with_other_steps(execute: Execute, make_spec: MakeSpec) -> None:
    first = execute(make_spec(steps=4, capture="off"))
    second = execute(make_spec(steps=8), folder=first.folder, attempt=2)
    assert second.result.resumed_from == 4
    assert second.weights() == execute(make_spec(steps=8)).weights()


class _Warns(TorchFunctionMode):
    """Warns of every operation, as PyTorch does of those that wait for the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        warnings.warn("waits", stacklevel=1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [_Warns(), contextlib.nullcontext()], ids=["through a mode", "directly"])
def test_a_wait_is_placed_where_it_was_asked_for(
    mode: contextlib.AbstractContextManager[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        places.append(asked_at(filename, lineno))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", note)
        ones = torch.ones(2)
        with mode:
            if isinstance(mode, TorchFunctionMode):
                ones.sum()  # here
            else:
                warnings.warn("waits", stacklevel=1)  # here
    ((file, number),) = places
    assert file == __file__
    assert Path(__file__).read_text(encoding="utf-8").splitlines()[number - 1].endswith("# here")
