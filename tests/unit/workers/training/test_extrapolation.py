"""Other lengths than the trained one: pieces give what the whole gives, in memory that does not grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from workers.errors import CheckpointError, SpecError, TaskError
from workers.models import LanguageModel, build_model
from workers.specs import (
    AssociativeRecallSpec,
    CopyingSpec,
    InductionHeadsSpec,
    ModelSpec,
    ModularArithmeticSpec,
    MqarSpec,
    SelectiveCopyingSpec,
    TaskSpec,
    TextSpec,
    TrainSpec,
)
from workers.tasks import build_task
from workers.training import cutting, extrapolation
from workers.training.checkpoint import read_checkpoint
from workers.training.evaluation import evaluate
from workers.training.extrapolation import HeldOut, evaluate_lengths, own_length, refusal, stream, task_at
from workers.training.precision import Placement

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

CPU = Placement(torch.device("cpu"), 1, "fp32", "test")
BOUNDED: dict[str, dict[str, Any]] = {
    "mamba": {},
    "complex": {"a_init": "complex"},
    "s4d": {"inner": "s4d"},
    "h3": {"mixer": "h3", "inner": "s4d"},
    "no-gate": {"mixer": "no-gate", "inner": "s6"},
    "hybrid": {"pattern": "mamba,h3/s4d"},
}
GROWING: dict[str, dict[str, Any]] = {
    "attention": {"mixer": "attention", "n_heads": 2},
    "hyena": {"mixer": "h3", "inner": "hyena"},
    "hybrid": {"pattern": "mamba,attention", "n_heads": 2},
}


def model_of(settings: dict[str, Any], vocab: int = 7) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = ModelSpec.model_validate({"d_model": 8, "n_layer": 2, "d_state": 4, **settings})
        return build_model(spec, vocab).eval()


def tokens(seqlen: int) -> torch.Tensor:
    return torch.randint(0, 7, (3, seqlen), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", BOUNDED)
@pytest.mark.parametrize("piece", [1, 5, 16, 37])
def test_pieces_give_what_one_pass_gives(kind: str, piece: int) -> None:
    model = model_of(BOUNDED[kind]).double()
    given = tokens(37)
    with torch.no_grad():
        pieces = list(stream(model, given, piece))
        whole = model(given)
    assert [start for start, _ in pieces] == list(range(0, 37, piece))
    torch.testing.assert_close(torch.cat([logits for _, logits in pieces], dim=1), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", BOUNDED)
def test_the_state_carried_along_does_not_grow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(BOUNDED[kind])
    assert not cutting.remembers_everything(model.spec)
    state = model.allocate_state(3)
    monkeypatch.setattr(model, "allocate_state", lambda *_: state)
    sizes = []
    with torch.no_grad():
        for _ in stream(model, tokens(64), 8):
            sizes.append(sum(tensor.numel() for layer in state.layers for tensor in layer.values()))
    assert state.position == 64
    assert len(sizes) == 8
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("loss_on", ["last", "all"])
@pytest.mark.parametrize("settings", [{}, GROWING["attention"]], ids=["mamba", "attention"])
def test_metrics_do_not_depend_on_the_pieces(
    settings: dict[str, Any], loss_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = InductionHeadsSpec.model_validate({"seqlen": 40, "vocab": 7, "loss_on": loss_on})
    model = model_of(settings)
    expected = evaluate(model, build_task(task), TrainSpec(eval_batches=2, batch_size=6), CPU)
    assert expected is not None
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 6 * 9)
    longest = 0
    features = model.features

    def watched(given: torch.Tensor, states: Any = None) -> torch.Tensor:
        nonlocal longest
        longest = max(longest, given.numel())
        return features(given, states)

    monkeypatch.setattr(model, "features", watched)
    (row,) = evaluate_lengths(model, task, [40], HeldOut(2, 6), CPU)
    assert row.length == 40
    assert row.metrics == pytest.approx(expected, rel=1e-6)
    assert 0 < longest <= 6 * 9


def test_a_models_mode_is_left_alone_and_a_stop_ends_the_rows() -> None:
    model = model_of({}).train()
    answers = iter([False, False, True])
    task = InductionHeadsSpec(seqlen=16, vocab=7)
    rows = list(evaluate_lengths(model, task, [16, 32, 64], HeldOut(1, 2), CPU, should_stop=lambda: next(answers)))
    assert [row.length for row in rows] == [16, 32]
    assert model.training


@pytest.mark.parametrize(
    ("task", "length", "seqlen"),
    [
        (InductionHeadsSpec(), 1024, 1024),
        (CopyingSpec(memorize=3), 1024, 1027),
        (SelectiveCopyingSpec(memorize=3, layout="mad"), 1024, 1028),
        (MqarSpec(kv_pairs=(2, 4)), 128, 128),
        (TextSpec(), 2048, 2048),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_task_at_another_length_keeps_all_else(task: TaskSpec, length: int, seqlen: int) -> None:
    longer = task_at(task, length)
    assert own_length(longer) == length
    assert build_task(longer).seqlen == seqlen
    assert task_at(longer, own_length(task)) == task


def test_lengths_that_a_task_cannot_have_are_named() -> None:
    with pytest.raises(SpecError, match=r"length 8 of mqar: .*at least 4 kv_pairs"):
        task_at(MqarSpec(kv_pairs=4), 8)
    for task in (AssociativeRecallSpec(), ModularArithmeticSpec()):
        assert task_at(task, build_task(task).seqlen) is task
        with pytest.raises(SpecError, match=r"own length 32 only, got 64"):
            task_at(task, 64)
    with pytest.raises(TaskError, match="too small"):
        build_task(task_at(TextSpec(), 10**9))


def test_what_remembers_everything_has_a_limit() -> None:
    for settings in GROWING.values():
        spec = model_of(settings).spec
        assert cutting.remembers_everything(spec)
        assert refusal(spec, 4096) == ""
        assert "got 2097152" in refusal(spec, 2**21)
    assert refusal(model_of({}).spec, 2**30) == ""
    learned = model_of({**GROWING["attention"], "positions": "learned", "max_positions": 32})
    with pytest.raises(SpecError, match=r"up to length 32, got 33: learned positions end at model.max_positions"):
        list(evaluate_lengths(learned, InductionHeadsSpec(vocab=7), [33], HeldOut(1, 1), CPU))
    hyena = model_of({**GROWING["hyena"], "hyena_positions": "learned", "hyena_l_max": 64})
    assert "model.hyena_l_max" in refusal(hyena.spec, 65)


def test_a_run_logs_its_lengths_once_and_only_what_is_new(execute: Execute, make_spec: MakeSpec) -> None:
    first = execute(make_spec(eval_lengths=(8, 24)))
    keys = [f"valid/{name}@{length}" for length in (8, 24) for name in ("accuracy", "loss")]
    assert all(list(first.sink.series(key)) == [20] for key in keys)
    assert {*keys, "valid/accuracy"} <= set(first.result.metrics)
    again = execute(make_spec(eval_lengths=(8, 24)), folder=first.folder, attempt=2)
    assert again.sink.rows == []
    assert again.result.metrics == first.result.metrics
    more = execute(make_spec(eval_lengths=(8, 24, 48)), folder=first.folder, attempt=3)
    assert [set(row) for _, row in more.sink.rows] == [{"valid/accuracy@48", "valid/loss@48"}]
    longer = execute(make_spec(steps=24, eval_lengths=(8,)), folder=first.folder, attempt=4)
    assert list(longer.sink.series("valid/accuracy@8")) == [24]
    assert "valid/accuracy@48" not in longer.result.metrics


def test_a_stop_between_lengths_resumes_where_it_was(execute: Execute, make_spec: MakeSpec) -> None:
    whole = execute(make_spec(eval_lengths=(8, 24, 48)))
    asked = 0
    stop_at = 20 + 2 + 2 + 2 + 1  # the steps, and two batches each of the evaluation, of 8 and of 24; then at 48

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= stop_at

    halted = execute(make_spec(eval_lengths=(8, 24, 48)), should_stop=stop)
    assert (halted.result.status, halted.result.step) == ("stopped", 20)
    resumed = execute(make_spec(eval_lengths=(8, 24, 48)), folder=halted.folder, attempt=2)
    assert resumed.result.status == "completed"
    assert {key for _, row in resumed.sink.rows for key in row} == {"valid/accuracy@48", "valid/loss@48"}
    assert {**halted.curve(), **resumed.curve()} == whole.curve()
    assert resumed.weights() == whole.weights()


def test_lengths_beyond_a_models_limit_are_a_warning(
    execute: Execute, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extrapolation, "LONGEST_ATTENTION", 20)
    spec = make_spec(eval_lengths=(16, 24))
    spec = spec.model_copy(update={"model": ModelSpec(mixer="attention", d_model=8, n_layer=1, n_heads=2)})
    ran = execute(spec)
    assert ran.result.status == "completed"
    assert "valid/accuracy@16" in ran.result.metrics
    assert "valid/accuracy@24" not in ran.result.metrics
    (warning,) = ran.sink.facts("warning")
    assert "up to length 20, got 24" in str(warning["message"])


def test_a_length_that_cannot_be_is_refused_before_training(execute: Execute, make_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match="length 2 of selective-copying"):
        execute(make_spec(eval_lengths=(2,)))
    with pytest.raises(ValueError, match="different lengths"):
        TrainSpec(eval_lengths=(8, 8))


def test_a_checkpoint_is_read_under_any_name(execute: Execute, make_spec: MakeSpec) -> None:
    ran = execute(make_spec(steps=4))
    moved = (ran.folder / "checkpoints" / "step-000004").rename(ran.folder / "best")
    assert read_checkpoint(moved).step == 4
    (moved / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"best: is no whole checkpoint: model.safetensors is not the file"):
        read_checkpoint(moved)


@pytest.mark.parametrize(("d_model", "positions"), [(64, 2**17), (128, 2**16), (256, 2**15), (512, 2**15)])
def test_a_gpu_reads_as_much_of_a_narrow_model_as_of_a_wide_one(d_model: int, positions: int) -> None:
    """With little at a time it waits for the host: a narrow model's pieces hold as many numbers as a wider one's."""
    with torch.device("meta"):
        model = build_model(ModelSpec(d_model=d_model, n_layer=1), 16)
    assert cutting.cut(model, 8, 2**20, torch.device("cuda")) == (8, positions)
