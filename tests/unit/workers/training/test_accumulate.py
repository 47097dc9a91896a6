"""Micro-batches: the curve of a step that is computed in pieces is that of the whole step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from workers.ablation import load_ablation, plan_runs
from workers.errors import SpecError
from workers.models import LanguageModel
from workers.specs import InductionHeadsSpec, MqarSpec, RunSpec, SelectiveCopyingSpec, TaskSpec, TextSpec, TrainSpec
from workers.tasks import IGNORE, build_task
from workers.training.determinism import derive_seed
from workers.validation import describe_errors

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

MIXED = MqarSpec(seqlen=24, kv_pairs=(1, 6), vocab=16)
TASKS: list[TaskSpec] = [
    SelectiveCopyingSpec(context=12, memorize=3, vocab=6),
    InductionHeadsSpec(seqlen=12, vocab=5, loss_on="all"),
    TextSpec(seqlen=16),
    MIXED,
]


def of_task(spec: RunSpec, task: TaskSpec) -> RunSpec:
    return spec.model_copy(update={"task": task})


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_the_curve_is_that_of_the_whole_batch(
    execute: Execute, make_spec: MakeSpec, task: TaskSpec, accumulate: int
) -> None:
    """Only the order of fp32 sums differs, as between two CPUs in `test_golden.py`: the same tolerance."""
    settings: dict[str, Any] = {"steps": 12, "batch_size": 8, "log_every": 1, "eval_every": 6}
    whole = execute(of_task(make_spec(**settings), task)).curve()
    cut = execute(of_task(make_spec(**settings, accumulate=accumulate), task)).curve()
    assert cut.keys() == whole.keys()
    assert {key[1] for key in cut} >= {"train/loss", "train/accuracy", "train/grad_norm", "valid/loss"}
    assert cut == pytest.approx(whole, rel=1e-4)


def test_micro_batches_of_the_mixed_task_differ_in_supervised_positions() -> None:
    """Else the test above could not tell a mean of means from the mean."""
    generator = torch.Generator().manual_seed(derive_seed(0, "data", 1))
    batch = build_task(MIXED).sample(generator, 8, "cpu")
    assert len({int((part.targets != IGNORE).sum()) for part in batch.cut(4)}) > 1


def test_each_pass_sees_one_micro_batch(execute: Execute, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[bool, int]] = []
    forward = LanguageModel.forward

    def watched(self: LanguageModel, tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append((self.training, len(tokens)))
        return forward(self, tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "forward", watched)
    execute(make_spec(steps=2, batch_size=6, accumulate=3, eval_batches=1))
    assert sizes == [(True, 2)] * 6 + [(False, 2)] * 3


def test_tokens_count_whole_steps(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(steps=4, accumulate=2))
    assert ran.sink.series("train/tokens_seen")[4] == 4 * 4 * 15
    rate, steps = ran.sink.series("train/tokens_per_s")[4], ran.sink.series("train/steps_per_s")[4]
    assert rate == pytest.approx(steps * 4 * 15)


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_resumed_it_is_the_uninterrupted_run(execute: Execute, make_spec: MakeSpec, stop: int) -> None:
    settings: dict[str, Any] = {"dropout": 0.2, "accumulate": 2, "eval_every": 3}
    whole = execute(make_spec(steps=10, **settings))
    first = execute(make_spec(steps=10, **settings), should_stop=iter([False] * stop + [True]).__next__)
    assert first.result.status == "stopped"
    second = execute(make_spec(steps=10, **settings), folder=first.folder, attempt=2)
    assert {**first.curve(), **second.curve()} == whole.curve()
    assert second.weights() == whole.weights()


def test_a_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec(batch_size=10, accumulate=4)
    said = describe_errors(TrainSpec, caught.value, "train.")
    assert "batch_size must be a multiple of accumulate" in said
    assert "got 10 and 4" in said


def test_an_ablation_that_cannot_be_cut_evenly_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.toml"
    file.write_text('name = "cut"\n[[axes]]\nkey = "train.accumulate"\nvalues = [2, 7]\n', encoding="utf-8")
    with pytest.raises(SpecError, match="must be a multiple of accumulate .* got 32 and 7"):
        plan_runs(load_ablation(file))
