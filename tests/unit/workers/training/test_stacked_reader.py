"""Several models read held-out sequences at once, in one piece or in many, and each finds what it finds alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workers.models import LanguageModel, build_model
from workers.specs import InductionHeadsSpec, ModelSpec, TrainSpec
from workers.tasks import build_task
from workers.training import cutting
from workers.training.evaluation import HeldOutStream, evaluate, evaluate_together
from workers.training.extrapolation import Examiner, HeldOut
from workers.training.precision import Placement
from workers.training.readers import ModelReader
from workers.training.stacked import Stack
from workers.training.stacked_reader import StackReader

CPU = Placement(torch.device("cpu"), 1, "fp32", "test")
TASK = InductionHeadsSpec(seqlen=40, vocab=7, loss_on="all")
KINDS: dict[str, dict[str, Any]] = {
    "mamba": {},
    "untied": {"tie_embeddings": False},
    "complex": {"a_init": "complex"},
    "h3": {"mixer": "h3", "inner": "s4d"},
    "no-gate": {"mixer": "no-gate", "inner": "s6"},
    "hybrid": {"pattern": "mamba,attention", "n_heads": 2},
}


def model_of(kind: str, seed: int) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = ModelSpec.model_validate({"d_model": 8, "n_layer": 2, "d_state": 4, **KINDS[kind]})
        return build_model(spec, 7).double()


def reader_of(models: list[LanguageModel]) -> StackReader:
    return StackReader(Stack(models, [[name for name, _ in models[0].named_parameters()]]), models[0], CPU)


@pytest.mark.parametrize("loss_on", ["last", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_finds_what_it_finds_alone(kind: str, loss_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are float64 and the loss is that of fp32 logits."""
    models = [model_of(kind, seed) for seed in range(3)]
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 6 * 9 * 3)
    task, held_out = TASK.model_copy(update={"loss_on": loss_on}), HeldOut(2, 6)
    alone = [Examiner(ModelReader(model, CPU), task, held_out).examine(40) for model in models]
    together = Examiner(reader_of(models), task, held_out).examine(40)
    assert together is not None
    assert len({row.metrics["valid/loss"] for row in together}) == 3
    for row, own in zip(together, alone, strict=True):
        assert own is not None
        assert row.metrics == pytest.approx(own[0].metrics, rel=1e-6)


def test_the_held_out_stream_is_read_by_all_at_once() -> None:
    models, task, train = [model_of("mamba", seed) for seed in range(3)], build_task(TASK), TrainSpec(eval_batches=3)
    alone = [evaluate(model, task, train, CPU) for model in models]
    stream = HeldOutStream(task, models[0].spec, train, CPU, len(models))
    found = evaluate_together(reader_of(models), [task] * 3, stream)
    assert found is not None
    for own, shared in zip(alone, found, strict=True):
        assert own is not None
        assert shared == pytest.approx(own, rel=1e-6)


def test_few_held_out_batches_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, model = build_task(TASK), model_of("mamba", 0)
    drawn = 0
    evaluation = task.evaluation

    def counted(*args: Any) -> object:
        nonlocal drawn
        drawn += 1
        return evaluation(*args)

    monkeypatch.setattr(task, "evaluation", counted)
    for batches, expected in ((3, 1), (6000, 3)):  # 6,000 batches of 16 sequences are too many to be kept
        train = TrainSpec(eval_batches=batches, eval_batch_size=16)
        stream = HeldOutStream(task, model.spec, train, CPU)
        first = next(stream.parts())
        assert torch.equal(next(stream.parts()).inputs, first.inputs)
        assert drawn == expected


def test_positions_without_a_target_get_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last position of these sequences has one: what the head computes is one position of the last piece."""
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 4 * 9)
    reader = ModelReader(model_of("mamba", 0), CPU)
    shapes = []
    logits = reader.logits

    def watched(features: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(features.shape))
        return logits(features)

    monkeypatch.setattr(reader, "logits", watched)
    assert Examiner(reader, InductionHeadsSpec(seqlen=40, vocab=7), HeldOut(1, 4)).examine(40) is not None
    assert shapes == [(4, 1, 8)]


class _Narrow(ModelReader):
    """Has memory for so many positions at once."""

    def __init__(self, model: LanguageModel, most: int) -> None:
        super().__init__(model, CPU)
        self.most, self.asked = most, [0]

    def features(self, tokens: torch.Tensor, states: Any) -> Any:
        self.asked.append(tokens.numel())
        if tokens.numel() > self.most:
            raise torch.OutOfMemoryError("no memory")
        return super().features(tokens, states)


def test_where_memory_does_not_suffice_fewer_positions_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.extrapolation.FEWEST", 16)
    model, held_out = model_of("mamba", 0), HeldOut(1, 4)
    expected = Examiner(ModelReader(model, CPU), TASK, held_out).examine(512)
    narrow = _Narrow(model, 200)
    examiner = Examiner(narrow, TASK, held_out)
    found = examiner.examine(512)
    assert expected is not None
    assert found is not None
    assert found[0].positions <= 200 < expected[0].positions
    assert found[0].metrics == pytest.approx(expected[0].metrics, rel=1e-6)
    narrow.asked = [0]
    assert examiner.examine(256) is not None
    assert max(narrow.asked) <= 200  # what memory holds is known by then
    with pytest.raises(torch.OutOfMemoryError):
        Examiner(_Narrow(model, 3), TASK, held_out).examine(512)


def test_a_gpu_reads_few_short_sequences_in_one_batch_and_long_ones_side_by_side() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    cut = cutting.cut_stream
    assert cut((32, 8), 64, 2**17, gpu, whole=False) == cutting.Cut(32, 256, 64)
    assert cut((32, 8), 2**12, 2**17, gpu, whole=False) == cutting.Cut(4, 32, 2**12)
    assert cut((32, 8), 2**20, 2**17, gpu, whole=False) == cutting.Cut(4, 32, 2**12)
    assert cut((32, 8), 2**22, 2**17, gpu, whole=False) == cutting.Cut(1, 8, 2**14)
    assert cut((32, 8), 2**12, 2**14, gpu, whole=True) == cutting.Cut(1, 4, 2**12)
    assert cut((32, 8), 2**12, 2**14, cpu, whole=False) == cutting.Cut(1, 8, 2**11)
    assert [cutting.merged(30, 8, rows) for rows in (1, 16, 47, 48, 1000)] == [1, 2, 5, 6, 30]
