"""Recall tasks and formal languages: oracles written from the definitions recover every label from the inputs."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.workers.tasks.cases import ARITHMETIC, PARITY, RECALL, mqar_specs
from workers.specs import (
    AssociativeRecallSpec,
    ModularArithmeticSpec,
    MqarSpec,
    ParitySpec,
    SelectiveCopyingSpec,
    TaskSpec,
)
from workers.tasks import IGNORE, Batch, Curriculum, Task, build_task, describe_example
from workers.tasks.mqar import MqarTask

SEEDS = st.integers(0, 2**63 - 1)


def draw_batch(task: Task, seed: int, size: int = 8) -> Batch:
    return task.sample(torch.Generator().manual_seed(seed), size, "cpu")


def rows(batch: Batch) -> list[tuple[list[int], list[int]]]:
    return list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))


@given(mqar_specs(), SEEDS)
def test_mqar_asks_for_the_value_beside_each_key_once(spec: MqarSpec, seed: int) -> None:
    half = spec.vocab // 2
    for inputs, targets in rows(draw_batch(build_task(spec), seed)):
        asked = [place for place, target in enumerate(targets) if target != IGNORE]
        count = len(asked)
        assert count in spec.pair_counts
        keys, values = inputs[: 2 * count : 2], inputs[1 : 2 * count : 2]
        assert len(set(keys)) == len(set(values)) == count
        assert all(1 <= key < half <= value < spec.vocab for key, value in zip(keys, values, strict=True))
        assert sorted(inputs[place] for place in asked) == sorted(keys)
        assert all(place >= 2 * count and place % 2 == 0 for place in asked)
        pairs = dict(zip(keys, values, strict=True))
        assert [targets[place] for place in asked] == [pairs[inputs[place]] for place in asked]
        if spec.filler == "zero":
            others = [token for place, token in enumerate(inputs[2 * count :], 2 * count) if place not in asked]
            assert set(others) <= {0}


@given(mqar_specs(), st.integers(0, 100))
def test_mqar_is_evaluated_with_the_most_pairs(spec: MqarSpec, seed: int) -> None:
    batch = next(build_task(spec).evaluation(seed, 1, 8, "cpu"))
    assert (batch.targets != IGNORE).sum(1).tolist() == [max(spec.pair_counts)] * 8


def test_mqar_mixes_its_numbers_of_pairs_evenly() -> None:
    batch = draw_batch(build_task(MqarSpec(seqlen=16, kv_pairs=(1, 2, 4), vocab=32)), 0, 6000)
    counts = Counter((batch.targets != IGNORE).sum(1).tolist())
    five_sigma = 5 * (1 / 3 * 2 / 3 / 6000) ** 0.5
    assert set(counts) == {1, 2, 4}
    assert all(abs(count / 6000 - 1 / 3) < five_sigma for count in counts.values())


@example(49, 1)  # where progress times stages rounds to below a whole number
@given(st.integers(1, 60), st.integers(1, 5))
def test_mqar_takes_its_numbers_of_pairs_in_turn(stages: int, each: int) -> None:
    """As they are listed, each for the same number of steps where that comes out even."""
    counts = tuple(random.Random(stages).sample(range(1, stages + 1), stages))
    task = build_task(MqarSpec(seqlen=4 * stages, kv_pairs=counts, vocab=2 * stages + 2, curriculum=True))
    assert isinstance(task, Curriculum)
    steps = stages * each
    drawn = []
    for step in range(1, steps + 1):
        batch = task.sample_at(torch.Generator().manual_seed(step), 2, "cpu", (step - 1) / steps)
        drawn += (batch.targets != IGNORE).sum(1).tolist()
    assert drawn == [count for count in counts for _ in range(2 * each)]


@given(mqar_specs(), SEEDS, st.floats(0, 1, exclude_max=True))
def test_without_a_curriculum_mqar_is_the_same_throughout(spec: MqarSpec, seed: int, progress: float) -> None:
    task = build_task(spec.model_copy(update={"curriculum": False}))
    assert isinstance(task, Curriculum)
    at = task.sample_at(torch.Generator().manual_seed(seed), 3, "cpu", progress)
    assert rows(at) == rows(draw_batch(task, seed, 3))


@pytest.mark.parametrize("power", [0.01, 0.5, 2.0])
def test_the_first_gap_drawn_follows_the_power_law(power: float) -> None:
    task = build_task(MqarSpec(seqlen=18, kv_pairs=1, vocab=8, power=power, filler="zero"))
    batch = draw_batch(task, 1, 40000)
    gaps = ((batch.targets != IGNORE).int().argmax(1) - 2) // 2
    weights = torch.arange(1, 9, dtype=torch.float64) ** (power - 1)
    expected = weights / weights.sum()
    observed = torch.bincount(gaps, minlength=8) / 40000
    assert ((observed - expected).abs() < 5 * (expected * (1 - expected) / 40000).sqrt()).all()


def test_gaps_without_replacement_are_drawn_in_turn() -> None:
    """P(a, b) = w_a / W * w_b / (W - w_a), which the largest of weights plus Gumbel noise must meet."""
    task = build_task(MqarSpec(seqlen=10, kv_pairs=2, vocab=8, power=0.01))
    assert isinstance(task, MqarTask)
    drawn = task._gaps(torch.Generator().manual_seed(0), torch.full((40000, 1), 2), "cpu")
    observed = Counter(map(tuple, drawn.tolist()))
    weights = [(gap + 1) ** -0.99 for gap in range(3)]
    for (first, second), count in observed.items():
        assert first != second
        left = sum(weights) - weights[first]
        expected = weights[first] / sum(weights) * weights[second] / left
        assert abs(count / 40000 - expected) < 5 * math.sqrt(expected * (1 - expected) / 40000)
    assert len(observed) == 6


@given(RECALL, SEEDS)
def test_recall_asks_for_the_value_of_a_key_that_occurred(spec: AssociativeRecallSpec, seed: int) -> None:
    half = spec.vocab // 2
    for inputs, targets in rows(draw_batch(build_task(spec), seed)):
        keys, values = inputs[:-2:2], inputs[1:-2:2]
        pairs = dict(zip(keys, values, strict=True))
        assert [pairs[key] for key in keys] == values
        assert all(key < half <= value < spec.vocab - 1 for key, value in pairs.items())
        assert inputs[-2] == spec.vocab - 1
        before = inputs[1:] if spec.loss_on == "all" else [IGNORE] * (len(inputs) - 1)
        assert targets == [*before, pairs[inputs[-1]]]


@given(PARITY, SEEDS)
def test_parity_counts_ones(spec: ParitySpec, seed: int) -> None:
    for inputs, targets in rows(draw_batch(build_task(spec), seed)):
        running = [sum(inputs[: place + 1]) % 2 for place in range(len(inputs))]
        expected = running if spec.loss_on == "all" else [IGNORE] * (len(inputs) - 1) + running[-1:]
        assert targets == expected


@given(ARITHMETIC, SEEDS)
def test_arithmetic_is_that_of_python(spec: ModularArithmeticSpec, seed: int) -> None:
    signs = {spec.modulus + place: sign for place, sign in enumerate("+-*")}
    for inputs, targets in rows(draw_batch(build_task(spec), seed)):
        assert inputs[-1] == spec.modulus + 3
        assert all(number < spec.modulus for number in inputs[::2])
        words = [signs.get(token, str(token)) for token in inputs[:-1]]
        values = [
            eval("".join(words[: place + 1])) % spec.modulus for place in range(0, len(words), 2)
        ]  # its own parser is the oracle
        shown = [target for target in targets if target != IGNORE]
        assert targets[-1] == values[-1]
        assert shown == ([*values, values[-1]] if spec.loss_on == "all" else values[-1:])


@pytest.mark.parametrize(
    ("spec", "choices"),
    [
        (MqarSpec(vocab=16), 8),
        (AssociativeRecallSpec(vocab=16), 7),
        (ParitySpec(loss_on="last"), 2),
        (SelectiveCopyingSpec(context=20, memorize=4, layout="mad"), 14),
        (SelectiveCopyingSpec(context=20, memorize=4, layout="blank"), 15),
    ],
    ids=["mqar", "recall", "parity", "mad", "blank"],
)
def test_a_constant_guess_is_right_at_the_rate_of_chance(spec: TaskSpec, choices: int) -> None:
    counts = Counter(t for t in draw_batch(build_task(spec), 0, 4000).targets.flatten().tolist() if t != IGNORE)
    total = sum(counts.values())
    assert len(counts) == choices
    five_sigma = 5 * (1 / choices * (1 - 1 / choices) / total) ** 0.5
    assert all(abs(count / total - 1 / choices) < five_sigma for count in counts.values())


@given(st.integers(2, 30), st.integers(4, 12), SEEDS)
def test_mads_copying_asks_after_one_copy_token(context: int, vocab: int, seed: int) -> None:
    spec = SelectiveCopyingSpec(context=context, memorize=2, vocab=vocab, layout="mad")
    for inputs, targets in rows(draw_batch(build_task(spec), seed)):
        data = [token for token in inputs[:context] if token != vocab - 2]
        assert len(data) == 2
        assert max(data) < vocab - 2
        assert inputs[context:] == [vocab - 1, vocab - 2, vocab - 2]
        assert targets == [IGNORE] * (context + 1) + data


@given(st.integers(2, 30), SEEDS)
def test_blank_copying_asks_with_noise(context: int, seed: int) -> None:
    spec = SelectiveCopyingSpec(context=context, memorize=2, vocab=5, layout="blank")
    for inputs, targets in rows(draw_batch(build_task(spec), seed)):
        assert inputs[context:] == [0, 0]
        assert targets[context:] == [token for token in inputs[:context] if token]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seqlen": 15, "kv_pairs": 4}, "seqlen must be at least 4 kv_pairs .* got 15 and 4"),
        ({"vocab": 7}, "vocab must be even"),
        ({"vocab": 8, "kv_pairs": 4}, "kv_pairs must be at most vocab/2 - 1"),
        ({"kv_pairs": (4, 0)}, "kv_pairs must name numbers of at least 1"),
    ],
)
def test_an_mqar_that_cannot_be_made_says_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MqarSpec.model_validate(change)


def test_examples_read_as_the_definitions() -> None:
    shown = describe_example(build_task(ModularArithmeticSpec(operands=4)), 0)
    expression = shown.splitlines()[1].split("inputs")[1]
    assert re.fullmatch(r"( \d [-+*]){3} \d =", " " + " ".join(expression.split()))
    assert describe_example(build_task(AssociativeRecallSpec()), 0).count("Q") == 1
    zero = describe_example(build_task(MqarSpec(seqlen=16, kv_pairs=2, filler="zero")), 0)
    assert zero.splitlines()[1].count(".") == 10
