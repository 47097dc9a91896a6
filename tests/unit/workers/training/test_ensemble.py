"""Every member of an ensemble is the run that it would be alone: its curve, its weights, its checkpoints and its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.workers.training.test_captured import Stand
from workers.errors import SpecError
from workers.models import build_model
from workers.specs import RunSpec
from workers.tasks.base import SyntheticTask
from workers.training import MemorySink, NonFiniteLossError, RunContext, RunResult, cutting, ensemble, run_trial, trial
from workers.training.captured import CapturedStepper
from workers.training.context import never_stop
from workers.training.ensemble import Ended, run_ensemble
from workers.training.extrapolation import Examiner
from workers.training.update import Update
from workers.training.window import Window

# Models are float64 here, logits fp32 in the loss: what remains of the order of sums, 2^-53 for each rounding, is too small to
# move the nearest fp32 number, and so is what AdamW makes of gradients that are nothing but rounding
EXACT = 1e-6
# In fp32 sums inside matrix products differ by 2^-24 for each rounding: some ten of them in each of 24 steps, with room
ROUNDED = 1e-4

MODELS: dict[str, dict[str, Any]] = {
    "mamba": {},
    "attention": {"mixer": "attention", "n_heads": 2, "mlp_ratio": 2, "norm": "layer"},
    "h3": {"mixer": "h3", "inner": "s4d", "h3_shift_state": 4},
    "hyena": {"mixer": "h3", "h3_shift": "conv-qkv", "inner": "hyena", "hyena_l_max": 32, "hyena_emb": 5},
    "untied": {"tie_embeddings": False, "pattern": "mamba,attention", "n_heads": 2},
}


def member(seed: int, *, model: dict[str, Any] | None = None, **train: Any) -> RunSpec:
    """Return a tiny run."""
    tree = {
        "model": {"d_model": 16, "n_layer": 2, "d_state": 4, **(model or {})},
        "task": {"name": "induction-heads", "seqlen": 24, "vocab": 8},
        "train": {
            "steps": 24,
            "batch_size": 4,
            "log_every": 5,
            "eval_every": 12,
            "eval_batches": 2,
            "lr": 3e-3,
            **train,
        },
        "seed": seed,
    }
    return RunSpec.model_validate(tree)


class Lab:
    """Runs that are trained alone and together, each in a folder of its own below one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sinks: dict[str, MemorySink] = {}

    def context(self, name: str, should_stop: Callable[[], bool] = never_stop) -> RunContext:
        sink = self.sinks.setdefault(name, MemorySink())
        return RunContext(name, 1, self.root / name, sink, should_stop)

    def alone(self, specs: Sequence[RunSpec]) -> list[RunResult]:
        return [run_trial(spec, self.context(f"alone-{index}")) for index, spec in enumerate(specs)]

    def together(self, specs: Sequence[RunSpec], stops: Sequence[Callable[[], bool]] | None = None) -> list[Ended]:
        stops = stops or [never_stop] * len(specs)
        contexts = [self.context(f"together-{index}", stop) for index, stop in enumerate(stops)]
        return run_ensemble(specs, contexts)

    def curve(self, name: str) -> dict[tuple[int, str], float]:
        """Return what must repeat: all that was logged but rates and memory."""
        return {
            (step, key): value
            for step, row in self.sinks[name].rows
            for key, value in row.items()
            if not key.endswith("_per_s") and not key.startswith("system/")
        }

    def weights(self, name: str, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.root / name / "checkpoints" / f"step-{step:06d}" / "model.safetensors")

    def check_equal(self, index: int, step: int, tolerance: float = EXACT) -> None:
        """Assert that a member's curve and last weights are those of its run alone."""
        mine, own = self.curve(f"together-{index}"), self.curve(f"alone-{index}")
        assert mine.keys() == own.keys()
        for key, value in own.items():
            assert mine[key] == pytest.approx(value, rel=tolerance, abs=1e-7), key
        self.check_weights(index, step, tolerance)

    def check_weights(self, index: int, step: int, tolerance: float = EXACT) -> None:
        together, alone = self.weights(f"together-{index}", step), self.weights(f"alone-{index}", step)
        assert together.keys() == alone.keys()
        for key, values in alone.items():
            torch.testing.assert_close(
                together[key], values, rtol=tolerance, atol=tolerance * values.abs().max().item()
            )


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab whose models are float64."""
    monkeypatch.setattr(trial, "build_model", lambda spec, vocab_size: build_model(spec, vocab_size).double())
    return Lab(tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_seeds_together_are_the_runs_alone(lab: Lab, model: str) -> None:
    specs = [member(seed, model=MODELS[model]) for seed in range(3)]
    results = lab.together(specs)
    for index, alone in enumerate(lab.alone(specs)):
        own = results[index]
        assert isinstance(own, RunResult)
        assert (own.status, own.reason, own.step) == (alone.status, alone.reason, alone.step)
        assert own.metrics.keys() == alone.metrics.keys()
        lab.check_equal(index, 24)
    assert lab.sinks["together-1"].facts("ensemble") == [
        {"members": ["together-0", "together-1", "together-2"], "index": 1}
    ]


def test_single_precision_differs_by_rounding_alone(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    specs = [member(seed) for seed in range(3)]
    lab.together(specs)
    lab.alone(specs)
    for index in range(3):
        lab.check_equal(index, 24, ROUNDED)


def test_members_have_rates_clipping_decay_and_schedules_of_their_own(lab: Lab) -> None:
    specs = [
        member(0, accumulate=2),
        member(0, accumulate=2, lr=1e-3, clip_grad_norm=0.0),
        member(1, accumulate=2, weight_decay=0.1, schedule="cosine", warmup_steps=5, clip_grad_norm=0.3),
        member(2, accumulate=2, beta1=0.8, log_every=4, eval_every=0, model={"a_init": "half", "dt_min": 0.01}),
    ]
    results = lab.together(specs)
    assert [getattr(result, "reason", result) for result in results] == ["steps"] * 4
    lab.alone(specs)
    for index in range(4):
        lab.check_equal(index, 24)


def test_a_member_that_ends_early_leaves_and_the_others_go_on(lab: Lab) -> None:
    specs = [member(0), member(1, steps=7), member(2, stop_at=100.0, stop_metric="valid/loss")]
    results = lab.together(specs)
    assert [(result.reason, result.step) for result in results if isinstance(result, RunResult)] == [
        ("steps", 24),
        ("steps", 7),
        ("stop_at", 12),
    ]
    lab.alone(specs)
    for index, step in enumerate((24, 7, 12)):
        lab.check_equal(index, step)


def test_each_end_is_told_when_it_comes(lab: Lab) -> None:
    specs = [member(0), member(1, steps=7)]
    told: list[tuple[int, int]] = []
    contexts = [lab.context(f"together-{index}") for index in range(2)]

    def ended(index: int, outcome: Ended) -> None:
        assert isinstance(outcome, RunResult)
        told.append((index, lab.sinks["together-0"].rows[-1][0]))

    run_ensemble(specs, contexts, ended=ended)
    assert told == [(1, 5), (0, 24)]  # the other one had logged step 5 when this one ended, at step 7


def test_a_member_that_diverges_fails_alone(lab: Lab) -> None:
    specs = [member(0), member(1, lr=1e30, clip_grad_norm=0.0, log_every=3), member(2)]
    results = lab.together(specs)
    failed = results[1]
    assert isinstance(failed, NonFiniteLossError)
    assert failed.step <= 3
    assert math.isnan(lab.sinks["together-1"].series("train/loss")[failed.step])
    assert not (lab.root / "together-1" / "checkpoints").exists()
    lab.alone([specs[0]])
    lab.check_equal(0, 24)
    assert isinstance(results[2], RunResult)


def test_a_member_that_is_stopped_goes_on_alone_or_in_another_ensemble(lab: Lab) -> None:
    """Interrupted after 8, 11 and no steps, and put together again wherever each stands."""
    specs = [member(seed, checkpoint_every=10) for seed in range(3)]
    steps = [0, 0, 0]

    def stop_at(index: int, step: int) -> Callable[[], bool]:
        def stop() -> bool:
            steps[index] += 1
            return steps[index] > step

        return stop

    results = lab.together(specs, [stop_at(0, 8), stop_at(1, 11), never_stop])
    assert [(one.status, one.step) for one in results if isinstance(one, RunResult)] == [
        ("stopped", 8),
        ("stopped", 11),
        ("completed", 24),
    ]
    again = lab.together(specs[:2])
    assert [(one.status, one.step, one.resumed_from) for one in again if isinstance(one, RunResult)] == [
        ("completed", 24, 8),
        ("completed", 24, 11),
    ]
    lab.alone(specs)
    for index in range(3):
        lab.check_equal(index, 24)


def test_a_run_begun_alone_ends_in_an_ensemble_and_the_other_way_round(lab: Lab) -> None:
    specs = [member(0), member(1)]
    lab.together([spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 12})}) for spec in specs])
    run_trial(specs[0], lab.context("together-0"))
    begun = specs[1].model_copy(update={"train": specs[1].train.model_copy(update={"steps": 18})})
    run_trial(begun, lab.context("together-1"))
    (ended,) = run_ensemble([specs[1]], [lab.context("together-1")])
    assert isinstance(ended, RunResult)
    assert ended.resumed_from == 18
    lab.alone(specs)
    for index in range(2):
        lab.check_weights(index, 24)


def test_a_checkpoint_of_another_spec_fails_its_member_alone(lab: Lab) -> None:
    specs = [member(0), member(1)]
    run_trial(member(5, steps=6), lab.context("together-1"))
    results = lab.together(specs)
    assert isinstance(results[0], RunResult)
    assert "belongs to another spec" in str(results[1])


def test_runs_of_other_shapes_are_refused(lab: Lab) -> None:
    with pytest.raises(SpecError, match=r"they differ in model\.d_state, train\.batch_size"):
        lab.together([member(0), member(1, model={"d_state": 8}, batch_size=8)])
    with pytest.raises(SpecError, match=r"model\.dropout is 0\.1"):
        lab.together([member(0, model={"dropout": 0.1})] * 2)


def test_members_that_evaluate_alike_read_the_held_out_stream_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    evaluation = SyntheticTask.evaluation

    def counted(task: SyntheticTask, seed: int, batches: int, batch_size: int, device: torch.device | str) -> object:
        drawn.append(batches)
        return evaluation(task, seed, batches, batch_size, device)

    monkeypatch.setattr(SyntheticTask, "evaluation", counted)
    specs = [member(seed) for seed in range(3)]
    lab.together(specs)
    assert drawn == [2]  # kept from step 12 for step 24
    lab.alone(specs)
    for index in range(3):
        lab.check_equal(index, 24)


def test_members_read_long_sequences_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces that carry the members' states; each is found what its run alone finds. One that ends earlier reads alone."""
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 3 * 4 * 10)
    examined: list[tuple[int, ...]] = []
    examine = Examiner.examine

    def counted(examiner: Examiner, length: int, *stop: Any) -> object:
        found = examine(examiner, length, *stop)
        examined.append((length, len(found or [])))
        return found

    monkeypatch.setattr(Examiner, "examine", counted)
    specs = [member(seed, eval_lengths=(8, 40)) for seed in range(3)] + [member(3, steps=12, eval_lengths=(40,))]
    lab.together(specs)
    assert examined == [(40, 1), (8, 3), (40, 3)]
    lab.alone(specs)
    for index in range(4):
        assert "valid/accuracy@40" in lab.sinks[f"together-{index}"].rows[-1][1]
        lab.check_equal(index, 12 if index == 3 else 24)


def test_a_member_that_is_stopped_at_the_lengths_leaves_them_to_the_others(lab: Lab) -> None:
    specs = [member(seed, eval_every=0, eval_lengths=(8, 16, 40)) for seed in range(3)]
    stops: list[Callable[[], bool]] = [StopAt(lab, "together-0", "valid/accuracy@8"), never_stop, never_stop]
    results = lab.together(specs, stops)
    assert [getattr(result, "status", result) for result in results] == ["stopped", "completed", "completed"]
    lab.alone(specs)
    for index in (1, 2):
        lab.check_equal(index, 24)
    resumed = run_trial(specs[0], lab.context("together-0"))
    assert resumed.status == "completed"
    lab.check_equal(0, 24)


class StopAt:
    """Asks a run to stop once it has logged a metric."""

    def __init__(self, lab: Lab, name: str, key: str) -> None:
        self._lab, self._name, self._key = lab, name, key

    def __call__(self) -> bool:
        return any(self._key in row for _, row in self._lab.sinks[self._name].rows)


def test_members_whose_steps_are_replayed_are_their_runs_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several steps a replay, rows and evaluations at places that cut them, one that leaves, and graphs recorded anew."""
    stands: list[Stand] = []

    def stepper(update: Update, window: Window, *_: object, **__: object) -> CapturedStepper:
        stands.append(Stand())
        report: Callable[[object], None] = lambda fact: None  # noqa: E731
        return CapturedStepper(update, window, steps_per_replay=2, recorder=stands[-1], report=report)

    monkeypatch.setattr(ensemble, "build_stepper", stepper)
    specs = [member(0, log_every=8), member(1, steps=14), member(2, log_every=8, checkpoint_every=10)]
    lab.together(specs)
    lab.alone(specs)
    for index, step in enumerate((24, 14, 24)):
        lab.check_equal(index, step)
    assert len(stands) == 2
    assert any(size == 2 and replays for size, _, replays in stands[0].sizes())
    assert stands[1].recorded
