"""The loss without all logits at once: values, gradients and metrics are those of the plain one."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.workers.training.test_captured import Stand, follow
from workers.models import LanguageModel, build_model
from workers.specs import ModelSpec, RunSpec, TrainSpec
from workers.tasks import IGNORE
from workers.training import fused_loss
from workers.training.beside import Beside
from workers.training.fused_loss import FUSED_FROM, Choice, choose, chunked_loss, logits_in_pieces
from workers.training.objective import Objective
from workers.training.precision import Placement
from workers.training.projections import Projections

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

CPU = Placement(torch.device("cpu"), 1, "fp32", "")
CUDA = Placement(torch.device("cuda", 0), 1, "bf16", "")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last of them short, in tests of few positions."""
    monkeypatch.setattr(fused_loss, "_positions", lambda vocab_size, device: 5)


def case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 8, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 8, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(11, (37,), generator=generator)
    targets[::4] = IGNORE
    return hidden, weight, targets


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_values_and_gradients_are_those_of_cross_entropy(dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, targets = case(dtype)
    scale = torch.tensor(1 / 27, dtype=dtype)
    logits = hidden @ weight.t()
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none").sum()
    wanted = torch.autograd.grad(expected * scale, (hidden, weight))
    loss = chunked_loss(hidden, weight, targets, scale, measure=True)
    torch.autograd.backward(loss.root, loss.gradient)
    torch.testing.assert_close(loss.total, expected.detach(), rtol=tolerance, atol=tolerance)
    assert loss.hits == (logits.argmax(-1) == targets).sum() > 0
    for found, right in zip((hidden.grad, weight.grad), wanted, strict=True):
        assert found is not None
        torch.testing.assert_close(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("small_chunks")
def test_a_well_predicted_token_has_a_gradient_in_bf16() -> None:
    """One less its probability must not be taken from a probability that is rounded to bf16, which is one."""
    weight = torch.eye(4).mul(7.0).requires_grad_()
    hidden = torch.eye(4).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_loss(hidden, weight, torch.arange(4), torch.tensor(1.0), measure=False)
    torch.autograd.backward(loss.root)
    exact = torch.softmax(torch.eye(4) * 7, -1) - torch.eye(4)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, exact, rtol=2**-8, atol=0)
    assert float(loss.total) == pytest.approx(4 * float(-F.log_softmax(torch.tensor([7.0, 0, 0, 0]), -1)[0]), rel=1e-3)


@pytest.mark.usefixtures("small_chunks")
def test_nothing_supervised_moves_nothing() -> None:
    hidden, weight, targets = case(torch.float32)
    loss = chunked_loss(hidden, weight, torch.full_like(targets, IGNORE), torch.tensor(1.0), measure=True)
    torch.autograd.backward(loss.root)
    assert loss.total == 0
    assert loss.hits == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


@pytest.mark.parametrize("measure", [False, True])
def test_no_tensor_holds_all_logits(monkeypatch: pytest.MonkeyPatch, measure: bool) -> None:
    monkeypatch.setattr(fused_loss, "_CHUNK", {"cpu": 128 * 512})
    hidden = torch.randn(1024, 4, requires_grad=True)
    weight = torch.randn(512, 4, requires_grad=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=True
    ) as profile:
        loss = chunked_loss(hidden, weight, torch.randint(512, (1024,)), torch.tensor(1.0), measure=measure)
        torch.autograd.backward(loss.root)
    largest = max(event.cpu_memory_usage for event in profile.events() or [])
    assert 0 < largest <= 128 * 512 * 4


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("model", [{}, {"tie_embeddings": False}, {"mixer": "attention", "n_heads": 2}], ids=str)
@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"activation_checkpointing": "block"}], ids=str)
def test_the_run_is_that_of_the_plain_loss(
    execute: Execute, make_spec: MakeSpec, settings: dict[str, Any], model: dict[str, Any]
) -> None:
    """Only the order of fp32 sums differs: the tolerance is that of `test_accumulate`."""
    runs = []
    for mode in ("on", "off"):
        spec = make_spec(steps=12, log_every=1, eval_every=6, fused_loss=mode, **settings)
        runs.append(execute(spec.model_copy(update={"model": spec.model.model_copy(update=model)})))
    fused, plain = runs
    assert [fact["loss"] for fact in fused.sink.facts("memory")] == ["chunked"]
    assert [fact["loss"] for fact in plain.sink.facts("memory")] == ["plain"]
    assert fused.curve().keys() == plain.curve().keys() >= {(12, "train/accuracy"), (12, "valid/accuracy")}
    assert fused.curve() == pytest.approx(plain.curve(), rel=1e-4)


@pytest.mark.usefixtures("small_chunks")
def test_it_repeats_bit_for_bit_and_resumes(execute: Execute, make_spec: MakeSpec) -> None:
    spec = make_spec(fused_loss="on", dropout=0.1, checkpoint_every=5)
    whole = execute(spec)
    begun = execute(spec, should_stop=iter([False] * 7 + [True]).__next__)
    ended = execute(spec, folder=begun.folder, attempt=2)
    assert ended.weights() == whole.weights()
    assert {**begun.curve(), **ended.curve()} == whole.curve()


@pytest.mark.usefixtures("small_chunks")
def test_captured_steps_are_the_eager_ones(make_spec: MakeSpec) -> None:
    spec = make_spec(fused_loss="on", log_every=4)
    rows, parameters, _ = follow(spec, Stand())
    eager_rows, eager_parameters, _ = follow(spec, None)
    assert rows == eager_rows
    assert all(torch.equal(*pair) for pair in zip(parameters, eager_parameters, strict=True))


@pytest.mark.usefixtures("small_chunks")
def test_a_run_asks_for_no_logits(execute: Execute, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LanguageModel, *rest: Any) -> Tensor:
        raise AssertionError("all logits at once")

    monkeypatch.setattr(LanguageModel, "forward", refuse)
    execute(make_spec(steps=2, fused_loss="on"))
    with pytest.raises(AssertionError, match="all logits at once"):
        execute(make_spec(steps=2, fused_loss="off"))


@pytest.mark.usefixtures("small_chunks")
def test_pieces_are_the_logits() -> None:
    model = build_model(ModelSpec(d_model=8, n_layer=1, d_state=4), 6)
    tokens = torch.randint(6, (2, 9))
    pieces = list(logits_in_pieces(model, tokens))
    assert len(pieces) == 5
    torch.testing.assert_close(torch.cat([logits for _, logits in pieces], 1), model(tokens))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("tied", [True, False])
def test_a_gpu_s_products_take_the_loss_s_gradients_in(tied: bool) -> None:
    """A tied weight's gradient is the sum of the embedding's, made by `Projections`, and of the loss's."""
    gradients = []
    for choice in (Choice("plain", ""), Choice("chunked", "")):
        torch.manual_seed(0)
        model = build_model(ModelSpec(d_model=8, n_layer=1, d_state=4, tie_embeddings=tied), 6)
        projections = Projections(model, torch.device("cpu"), Beside(torch.device("cpu")))
        objective = Objective(model, choice, projections)
        tokens = torch.arange(24).view(2, 12) % 6
        with projections.step():
            with projections.forward():
                loss = objective(tokens, tokens, torch.tensor(1 / 24), measure=False)
            torch.autograd.backward(loss.root, loss.gradient)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, fused in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-7)


def large() -> LanguageModel:
    model = build_model(ModelSpec(d_model=8, n_layer=1, d_state=4), 6)
    model.vocab_size = FUSED_FROM
    return model


@pytest.mark.parametrize(
    ("mode", "vocab", "placement", "captured", "library", "expected"),
    [
        ("auto", FUSED_FROM, CPU, False, False, "chunked"),
        ("auto", FUSED_FROM - 1, CPU, False, False, "plain"),
        ("off", FUSED_FROM, CPU, False, False, "plain"),
        ("on", 6, CPU, False, True, "chunked"),
        ("on", 6, CUDA, True, True, "chunked"),
        ("on", 6, CUDA, False, True, "liger-kernel"),
        ("on", 6, CUDA, False, False, "chunked"),
    ],
)
def test_what_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    vocab: int,
    placement: Placement,
    captured: bool,
    library: bool,
    expected: str,
) -> None:
    found = importlib.machinery.ModuleSpec("liger_kernel", None) if library else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    model = large()
    model.vocab_size = vocab
    train = TrainSpec.model_validate({"fused_loss": mode})
    choice = choose(train, model, placement, captured=captured)
    assert choice.name == expected
    assert choice.why.startswith("auto" if mode == "auto" else f"train.fused_loss is '{mode}'")


def test_another_s_model_keeps_its_logits() -> None:
    spec = RunSpec(train=TrainSpec(fused_loss="on"))
    assert choose(spec.train, torch.nn.Linear(2, 2), CPU, captured=False).name == "plain"
