"""Activation checkpointing: less is kept between the passes, and nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.workers.training.test_captured import Stand, follow
from tests.unit.workers.training.test_update import make_update
from workers.models import build_model
from workers.models.block import Block
from workers.specs import ModelSpec, RunSpec
from workers.training.projections import Projections
from workers.training.recompute import Mode, Recomputation

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec

MODES: list[Mode] = ["block", "selective"]
MODELS: dict[str, dict[str, Any]] = {
    "mamba": {"d_state": 4},
    "attention": {"mixer": "attention", "n_heads": 2, "mlp_ratio": 2, "norm": "layer"},
    "hybrid": {"pattern": "mamba,h3/s4d", "n_layer": 2, "d_state": 4},
}


def of_model(spec: RunSpec, **model: Any) -> RunSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=model)})


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3}, {"accumulate": 2}, {"precision": "bf16"}], ids=str)
def test_the_run_is_that_without_it(
    execute: Execute, make_spec: MakeSpec, mode: str, settings: dict[str, Any], model: dict[str, Any]
) -> None:
    """Bit for bit, dropout's random state included."""
    kept = execute(of_model(make_spec(steps=4, log_every=1, **settings), **model))
    again = execute(of_model(make_spec(steps=4, log_every=1, activation_checkpointing=mode, **settings), **model))
    assert again.curve() == kept.curve()
    assert again.weights() == kept.weights()
    assert [fact["activation_checkpointing"] for fact in again.sink.facts("memory")] == [mode]
    assert [fact["activation_checkpointing"] for fact in kept.sink.facts("memory")] == ["off"]


@pytest.mark.parametrize(("mode", "passes"), [("off", 1), ("block", 2), ("selective", 2)])
def test_each_block_runs_once_more_in_training_alone(
    execute: Execute, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, mode: str, passes: int
) -> None:
    ran: list[bool] = []
    forward = Block.forward

    def watched(self: Block, *rest: Any) -> tuple[Tensor, Tensor]:
        ran.append(self.training)
        return forward(self, *rest)

    monkeypatch.setattr(Block, "forward", watched)
    execute(make_spec(steps=3, eval_batches=2, activation_checkpointing=mode))
    assert ran == [True] * 3 * passes + [False] * 2


@pytest.mark.parametrize("mode", MODES)
def test_less_is_kept(mode: Mode) -> None:
    """What autograd keeps inside a block, whose own hooks lie inside of these here, does not reach them."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(d_model=16, n_layer=4, d_state=16), 8)
    tokens, found = torch.randint(8, (2, 64)), list[int]()

    def count(tensor: Tensor) -> Tensor:
        found[-1] += tensor.nbytes
        return tensor

    for through in (None, Recomputation(mode, random=False)):
        model.through = through
        found.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(tokens).sum().backward()
    assert found[1] < found[0] / 4


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products that are computed, which leaves out those whose results were kept."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func) in ("aten.mm.default", "aten.addmm.default")
        return func(*args, **(kwargs or {}))


def test_selective_computes_no_product_again() -> None:
    products: dict[Mode, int] = {}
    modes: list[Mode] = ["off", *MODES]
    for mode in modes:
        torch.manual_seed(0)
        model = build_model(ModelSpec(d_model=8, n_layer=2, d_state=4), 8)
        if mode != "off":
            model.through = Recomputation(mode, random=False)
        with Products() as counted:  # type: ignore[no-untyped-call]
            model(torch.randint(8, (2, 16))).sum().backward()
        products[mode] = counted.count
    assert 0 < products["selective"] == products["off"] < products["block"]


def test_streaming_is_left_alone() -> None:
    """A state is advanced in place, so a block that has one cannot be run twice."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(d_model=8, n_layer=2, d_state=4), 8)
    tokens = torch.randint(8, (2, 16))
    expected = model(tokens, model.allocate_state(2))
    model.through = Recomputation("block", random=False)
    assert torch.equal(model(tokens, model.allocate_state(2)), expected)


def test_weights_used_again_are_used_once_for_their_gradients() -> None:
    """With the products of a GPU's steps, of which a weight's several uses share one gradient."""
    gradients = []
    for mode in ("off", "block"):
        torch.manual_seed(0)
        model = build_model(ModelSpec(d_model=8, n_layer=2, d_state=4), 8)
        projections = Projections(model, torch.device("cpu"), None)
        if mode == "block":
            model.through = Recomputation("block", random=False, again=projections.again)
        with projections.step():
            with projections.forward():
                logits = model(torch.arange(16).view(2, 8) % 8)
            logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, again in zip(*gradients, strict=True):
        assert kept is not None
        assert again is not None
        assert torch.equal(kept, again)


@pytest.mark.parametrize("mode", MODES)
def test_captured_steps_are_the_eager_ones(make_spec: MakeSpec, mode: str) -> None:
    spec = make_spec(activation_checkpointing=mode, log_every=4)
    rows, parameters, _ = follow(spec, Stand())
    eager_rows, eager_parameters, _ = follow(make_spec(log_every=4), None)
    assert rows == eager_rows
    assert all(torch.equal(*pair) for pair in zip(parameters, eager_parameters, strict=True))


@pytest.mark.parametrize(
    ("dropout", "mode", "refused"), [(0.1, "block", True), (0.0, "block", False), (0.1, "off", False)]
)
def test_a_graph_with_dropout_is_refused(make_spec: MakeSpec, dropout: float, mode: str, refused: bool) -> None:
    update, _ = make_update(make_spec(dropout=dropout, activation_checkpointing=mode))
    assert ("random state" in update.refusal()) is refused
