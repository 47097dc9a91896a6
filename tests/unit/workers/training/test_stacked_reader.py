"""Several models read held-out sequences at once, in one piece or in many, and each finds what it finds alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from workers.models import LanguageModel, build_model
from workers.specs import InductionHeadsSpec, ModelSpec, TrainSpec
from workers.tasks import IGNORE, Batch, build_task
from workers.training import cutting
from workers.training.evaluation import HeldOutStream, evaluate, evaluate_together
from workers.training.extrapolation import Examiner, HeldOut
from workers.training.pieces import Pieces
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hybrid"])
def test_states_advance_without_features_as_with_them(kind: str) -> None:
    """One model's and several models' states, behind two pieces, of which the first was read for the states alone."""
    models = [model_of(kind, seed) for seed in range(3)]
    first, second = torch.arange(2 * 2 * 9).view(2, 2, 9) % 7
    for reader in (ModelReader(models[0], CPU), reader_of(models)):
        with reader.reading():
            begun = reader.begin(2)
            _, read = reader.features(first, begun)
            skipped = reader.advance(first, begun)
            assert read is not None
            assert all(value.abs().sum() == 0 for layer in begun for value in layer.values())
            for one, other in zip(read, skipped, strict=True):
                assert set(one) == set(other)
                for name, values in one.items():
                    assert values.abs().sum() > 0
                    torch.testing.assert_close(other[name], values, rtol=1e-12, atol=1e-14)
            expected, found = reader.features(second, read)[0], reader.features(second, skipped)[0]
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_nothing_comes_behind_the_last_layer_where_no_features_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five pieces the last alone has a target: projection and norm behind the last layer run once, not five times."""
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 4 * 8)
    model = model_of("mamba", 0)
    ran = {"final norm": 0, "last projection": 0, "first projection": 0}

    def count(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda *_: ran.update({name: ran[name] + 1}))

    mixers = [getattr(block, "mixer") for block in model.blocks]  # noqa: B009 - a ModuleList does not know what it holds
    count(model.norm, "final norm")
    count(mixers[0].out_proj, "first projection")
    count(mixers[1].out_proj, "last projection")
    examiner = Examiner(ModelReader(model, CPU), InductionHeadsSpec(seqlen=40, vocab=7), HeldOut(1, 4))
    assert examiner.examine(40) is not None
    assert ran == {"final norm": 1, "last projection": 1, "first projection": 5}


def test_what_lies_behind_the_last_target_is_not_read() -> None:
    class Counting(ModelReader):
        read, skipped = 0, 0

        def features(self, tokens: torch.Tensor, states: Any) -> Any:
            self.read += 1
            return super().features(tokens, states)

        def advance(self, tokens: torch.Tensor, states: Any) -> Any:
            self.skipped += 1
            return super().advance(tokens, states)

    reader = Counting(model_of("mamba", 0), CPU)
    targets = torch.full((2, 40), IGNORE)
    targets[0, 17], targets[1, 10] = 3, 2
    examiner = Examiner(reader, TASK, HeldOut(1, 2))
    with reader.reading():
        found = list(examiner._supervised(Batch(torch.arange(80).view(2, 40) % 7, targets), cutting.Cut(1, 2, 8)))
        (whole,) = [reader.logits(reader.features(torch.arange(80).view(2, 40) % 7, None)[0])]
    assert [wanted.shape for _, wanted in found] == [(2, 1), (2, 1)]
    torch.testing.assert_close(torch.cat([one for one, _ in found], 1), whole[:, [10, 17]].float())
    assert (reader.read, reader.skipped) == (2 + 1, 1)


def test_a_way_past_pieces_is_recorded_where_many_are_to_come_or_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads them is recorded apart from what skips them; one read at the end of each batch is recorded in time."""
    seen: list[str] = []

    class Graph:
        def replay(self) -> None:
            seen.append("replayed")

    @contextlib.contextmanager
    def graph(*_: Any, **__: Any) -> Iterator[None]:
        seen.append("recorded")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    reader = ModelReader(model_of("mamba", 0), CPU)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    pieces = Pieces(reader, 2, 8)
    pieces._refused = False
    happened: list[tuple[int, int]] = []
    with reader.reading():
        for _ in range(4):
            pieces.begin()
            for left in (4, 3, 2, 1, 0):
                pieces.skip(tokens, left)
            pieces.read(tokens, 0)
            happened.append((seen.count("recorded"), seen.count("replayed")))
    # of the skipped the first goes as it comes; what is read is recorded once three of it went so
    assert happened == [(1, 4), (1, 9), (1, 14), (2, 20)]
    assert pieces.recorded


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
