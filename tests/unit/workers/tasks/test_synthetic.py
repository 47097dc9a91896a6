"""Generated tasks: an oracle written from the task's definition alone recovers every label from the inputs."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.workers.tasks import cases
from workers.errors import TaskError
from workers.specs import (
    AssociativeRecallSpec,
    CopyingSpec,
    InductionHeadsSpec,
    ModularArithmeticSpec,
    MqarSpec,
    ParitySpec,
    SelectiveCopyingSpec,
    TaskSpec,
)
from workers.tasks import IGNORE, Batch, EvalTotals, Task, build_task, describe_example

SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def copying_specs(draw: st.DrawFn) -> CopyingSpec | SelectiveCopyingSpec:
    context = draw(st.integers(2, 60))
    memorize, vocab = draw(st.integers(1, context)), draw(st.integers(3, 20))
    if draw(st.booleans()):
        return CopyingSpec(context=context, memorize=memorize, vocab=vocab)
    return SelectiveCopyingSpec(context=context, memorize=memorize, vocab=vocab)


@st.composite
def induction_specs(draw: st.DrawFn) -> InductionHeadsSpec:
    seqlen = draw(st.integers(4, 60))
    prefix = draw(st.none() | st.integers(1, seqlen - 2))
    loss_on: Literal["last", "all"] = draw(st.sampled_from(["last", "all"]))
    return InductionHeadsSpec(seqlen=seqlen, vocab=draw(st.integers(3, 20)), trigger_prefix=prefix, loss_on=loss_on)


SPECS = st.one_of(copying_specs(), induction_specs(), cases.SPECS)


def draw_batch(task: Task, seed: int, size: int = 8) -> Batch:
    return task.sample(torch.Generator().manual_seed(seed), size, "cpu")


@given(copying_specs(), SEEDS)
def test_copying_asks_for_the_data_tokens_in_order(spec: CopyingSpec | SelectiveCopyingSpec, seed: int) -> None:
    batch = draw_batch(build_task(spec), seed)
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        context, markers = inputs[: spec.context], inputs[spec.context :]
        data = [token for token in context if token != 0]
        assert markers == [spec.vocab - 1] * spec.memorize
        assert all(1 <= token <= spec.vocab - 2 for token in data)
        assert targets == [IGNORE] * spec.context + data
        if spec.name == "copying":
            assert context[: spec.memorize] == data


@given(induction_specs(), SEEDS)
def test_induction_asks_for_what_followed_the_special_token(spec: InductionHeadsSpec, seed: int) -> None:
    batch = draw_batch(build_task(spec), seed)
    special = spec.vocab - 1
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert Counter(inputs)[special] == 2
        first = inputs.index(special)
        assert inputs[-1] == special
        assert first < (spec.trigger_prefix or spec.seqlen - 2)
        before = inputs[1:] if spec.loss_on == "all" else [IGNORE] * (spec.seqlen - 1)
        assert targets == [*before, inputs[first + 1]]


@given(SPECS, SEEDS)
def test_batches_are_typed_in_range_and_repeat_with_the_seed(spec: TaskSpec, seed: int) -> None:
    task = build_task(spec)
    batch = draw_batch(task, seed)
    assert batch.inputs.shape == batch.targets.shape == (8, task.seqlen)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert 0 <= batch.inputs.min() <= batch.inputs.max() < task.vocab_size
    again = draw_batch(task, seed)
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.equal(batch.targets, again.targets)


@given(SPECS, st.integers(0, 2**31), st.integers(1, 40))
def test_the_heldout_stream_does_not_depend_on_the_batch_size(spec: TaskSpec, seed: int, size: int) -> None:
    task = build_task(spec)
    whole = next(task.evaluation(seed, 1, 2 * size, "cpu"))
    cut = list(task.evaluation(seed, 2, size, "cpu"))
    assert [len(batch.inputs) for batch in cut] == [size, size]
    assert torch.equal(torch.cat([batch.inputs for batch in cut]), whole.inputs)
    assert torch.equal(torch.cat([batch.targets for batch in cut]), whole.targets)


LARGE: list[TaskSpec] = [
    CopyingSpec(context=64, memorize=16),
    SelectiveCopyingSpec(context=64, memorize=16),
    InductionHeadsSpec(seqlen=64),
    MqarSpec(filler="zero"),
    AssociativeRecallSpec(),
    ParitySpec(seqlen=100),
    ModularArithmeticSpec(),
]


@pytest.mark.parametrize("spec", LARGE, ids=lambda spec: spec.name)
def test_no_heldout_sequence_is_a_training_sequence(spec: TaskSpec) -> None:
    """With more than 10^18 possible sequences a single repetition means a shared stream."""
    task = build_task(spec)
    training = [row for seed in range(50) for row in draw_batch(task, seed, 16).inputs.tolist()]
    heldout = [row for batch in task.evaluation(0, 10, 64, "cpu") for row in batch.inputs.tolist()]
    rows = {tuple(row) for row in training + heldout}
    assert len(rows) == len(training) + len(heldout)


@pytest.mark.parametrize("spec", LARGE, ids=lambda spec: spec.name)
def test_a_training_stream_on_a_heldout_chunks_own_seed_still_differs(
    spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.tasks.base.evaluation_seed", lambda *parts: 7)
    task = build_task(spec)
    heldout = next(task.evaluation(0, 1, 16, "cpu"))
    training = draw_batch(task, 7, 16)
    assert not (heldout.inputs == training.inputs).all(-1).any()


@pytest.mark.parametrize(
    ("spec", "choices"), [(LARGE[0], 14), (LARGE[1], 14), (LARGE[2], 15)], ids=lambda v: str(v)[:9]
)
def test_a_constant_guess_is_right_at_the_rate_of_chance(spec: TaskSpec, choices: int) -> None:
    task = build_task(spec)
    counts = Counter(t for t in draw_batch(task, 0, 4000).targets.flatten().tolist() if t != IGNORE)
    total = sum(counts.values())
    assert len(counts) == choices
    five_sigma = 5 * (1 / choices * (1 - 1 / choices) / total) ** 0.5
    assert all(abs(count / total - 1 / choices) < five_sigma for count in counts.values())


def test_selective_slots_are_uniform() -> None:
    task = build_task(SelectiveCopyingSpec(context=10, memorize=3, vocab=5))
    occupied = (draw_batch(task, 1, 20000).inputs[:, :10] != 0).float().mean(0)
    five_sigma = 5 * (0.3 * 0.7 / 20000) ** 0.5
    assert ((occupied - 0.3).abs() < five_sigma).all()


def test_the_trigger_is_uniform_over_every_valid_place() -> None:
    task = build_task(InductionHeadsSpec(seqlen=8, vocab=4))
    first = (draw_batch(task, 1, 20000).inputs == 3).int().argmax(-1)
    share = torch.bincount(first, minlength=8) / 20000
    assert share[6:].tolist() == [0, 0]
    assert ((share[:6] - 1 / 6).abs() < 5 * (1 / 6 * 5 / 6 / 20000) ** 0.5).all()


def test_a_trigger_prefix_that_does_not_fit_says_so() -> None:
    with pytest.raises(TaskError, match=r"trigger_prefix must be at most task.seqlen - 2 = 6.* got 7"):
        build_task(InductionHeadsSpec(seqlen=8, trigger_prefix=7))


def test_examples_read_as_the_definition() -> None:
    shown = describe_example(build_task(SelectiveCopyingSpec(context=8, memorize=2, vocab=5)), 3)
    head, inputs, targets = shown.splitlines()
    assert head == "selective-copying: 10 positions, 5 tokens"
    signs = inputs.split()[2:]
    assert signs[8:] == ["M", "M"]
    assert targets.split()[1:] == ["-"] * 8 + [sign for sign in signs[:8] if sign != "."]
    assert describe_example(build_task(InductionHeadsSpec(seqlen=8)), 0).count("S") == 2


def test_a_long_example_leaves_out_the_middle() -> None:
    shown = describe_example(build_task(SelectiveCopyingSpec()), 0)
    assert "positions ..." in shown
    assert len(shown.splitlines()) < 60
    assert shown.splitlines()[-1].startswith("       targets")


def totals_of(logits: torch.Tensor, targets: torch.Tensor) -> EvalTotals:
    totals = EvalTotals("cpu")
    totals.add(logits, targets)
    return totals


def test_totals_are_those_counted_by_hand() -> None:
    targets = torch.tensor([[IGNORE, 1, 2], [IGNORE, 0, 1], [IGNORE, IGNORE, IGNORE]])
    predicted = torch.tensor([[0, 1, 2], [0, 0, 2], [1, 1, 1]])
    logits = torch.nn.functional.one_hot(predicted, 3).float() * 2
    metrics = build_task(LARGE[0]).metrics(totals_of(logits, targets))
    wrong = torch.tensor([2.0, 0.0, 0.0]).logsumexp(0).item()
    assert metrics["valid/accuracy"] == 0.75
    assert metrics["valid/sequence_accuracy"] == 0.5  # the third sequence asks for nothing
    assert metrics["valid/loss"] == pytest.approx((3 * (wrong - 2) + wrong) / 4, rel=1e-6)


def test_metrics_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no supervised position"):
        build_task(LARGE[0]).metrics(EvalTotals("cpu"))
