"""Work beside a step's chain of kernels never meets what the chain does at the same time.

CUDA streams are simulated: each has a vector clock, a fork and a join merge them, and every operation is checked on the CPU.
It may read only what was written before it, and write only where all earlier reads and writes were before it. What the
chain has made must live until those beside have read it: its memory would go to the chain's next operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workers.models import build_model
from workers.specs import ModelSpec, RunSpec
from workers.tasks import build_task
from workers.training import row_loss
from workers.training.beside import Beside
from workers.training.ensemble_update import EnsembleUpdate, Member
from workers.training.optim import build_optimizer
from workers.training.precision import Placement
from workers.training.update import RunUpdate, Update

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import MakeSpec

MAIN, BESIDE, LOOSE = 0, 1, 2
CPU = torch.device("cpu")
MODELS = {
    "mamba": ModelSpec(d_model=8, n_layer=2, d_state=4, dropout=0.1, tie_embeddings=False),
    "tied": ModelSpec(d_model=8, n_layer=1, d_state=4),
    "attention": ModelSpec(mixer="attention", d_model=8, n_heads=2, n_layer=2, mlp_ratio=2, norm="layer"),
    "hyena": ModelSpec(mixer="h3", inner="hyena", h3_shift="conv-qkv", d_conv=3, d_model=8, n_layer=1),
}


class Simulated(Beside):
    """A chain and what is beside it, as clocks: `clocks[a][b]` is how much of stream b is done before a's next operation."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.now, self.clocks, self.joins = MAIN, [[0, 0, 0] for _ in range(3)], True
        self.forks = [0, 0, 0]
        self.before_join: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def fork(self, *made_of: Tensor, loose: bool = False) -> Iterator[None]:
        self._kept += made_of
        self.now = LOOSE if loose else BESIDE
        self.forks[self.now] += 1
        self.clocks[self.now] = [max(pair) for pair in zip(self.clocks[MAIN], self.clocks[self.now], strict=True)]
        try:
            yield
        finally:
            self.now = MAIN

    def mark(self) -> object:
        return list(self.clocks[BESIDE])

    def wait(self, mark: object) -> None:
        assert isinstance(mark, list)
        self.clocks[MAIN] = [max(pair) for pair in zip(self.clocks[MAIN], mark, strict=True)]

    def join(self) -> None:
        self.before_join()
        self._kept.clear()
        if self.joins:
            self.clocks[MAIN] = [max(pair) for pair in zip(*self.clocks, strict=True)]


class Races(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation; `found` names those that do not wait for another that they need."""

    def __init__(self, streams: Simulated) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.streams = streams
        self.found: list[str] = []
        self._written: dict[int, tuple[int, int]] = {}
        self._read: dict[int, dict[int, int]] = {}
        # So that no memory is used twice. Not the tensors: a gradient that somebody else holds is copied, not taken over.
        self._alive: dict[int, torch.UntypedStorage] = {}
        self._made_by: dict[int, int] = {}
        self._read_beside: dict[int, str] = {}
        streams.before_join = self._check_lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = [returned.alias_info for returned in func._schema.returns]
        if returns and all(alias is not None and not alias.is_write for alias in returns):
            return result  # a view
        stream = self.streams.now
        self.streams.clocks[stream][stream] += 1
        given = list(zip(func._schema.arguments, args, strict=False))
        given += [(one, (kwargs or {})[one.name]) for one in func._schema.arguments if one.name in (kwargs or {})]
        for argument, value in given:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if argument.name == "grads" and not kwargs.get("grad_scale"):
                writes = False  # the fused optimizer writes gradients back only where it has scaled them
            for tensor in tree_leaves(value):
                if isinstance(tensor, Tensor):
                    self._touch(func, tensor, stream, writes=writes)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._touch(func, tensor, stream, writes=True)
        return result

    def _touch(self, func: Any, tensor: Tensor, stream: int, *, writes: bool) -> None:
        place, clock = tensor.untyped_storage().data_ptr(), self.streams.clocks[stream]
        self._alive.setdefault(place, tensor.untyped_storage())
        self._made_by.setdefault(place, stream)
        if stream != MAIN and self._made_by[place] == MAIN:
            self._read_beside[place] = str(func)
        earlier = [self._written[place]] if place in self._written else []
        if writes:
            earlier += list(self._read.get(place, {}).items())
        if any(clock[other] < time for other, time in earlier if other != stream):
            self.found.append(str(func))
        if writes:
            self._written[place] = (stream, clock[stream])
            self._read[place] = {}
        else:
            self._read.setdefault(place, {})[stream] = clock[stream]

    def _check_lives(self) -> None:
        for place, name in self._read_beside.items():
            if torch._C._storage_Use_Count(self._alive[place]._cdata) <= 1:  # ours alone
                self.found.append(f"{name} reads what has been given up")
        self._read_beside.clear()


def watch(spec: RunSpec, streams: Simulated, precision: Any = "fp32") -> list[str]:
    """Return the races of a run's first steps."""
    task = build_task(spec.task)
    torch.manual_seed(0)
    model = build_model(spec.model, task.vocab_size)
    update = RunUpdate(
        spec,
        task=task,
        model=model,
        optimizer=build_optimizer(model, spec.train),
        placement=Placement(CPU, 1, precision, "test"),
        beside=streams,
    )
    return run(update, streams)


def run(update: Update, streams: Simulated) -> list[str]:
    """Do three steps; return the races."""
    update.reserve(1)
    races = Races(streams)
    with races:
        for step in (1, 2, 3):
            update.prepare(range(step, step + 1))
            outcome = update.outcome(update.compute(update.draw(0), 0, measure=True))
            assert torch.isfinite(outcome.clone()).all()
    return races.found


@pytest.mark.parametrize(
    ("model", "clip", "precision"),
    [
        ("mamba", 0.0, "fp32"),
        ("mamba", 1.0, "bf16"),
        ("tied", 0.0, "bf16"),
        ("tied", 1.0, "fp32"),
        ("attention", 0.0, "bf16"),
        ("hyena", 1.0, "fp32"),
    ],
)
def test_nothing_beside_the_chain_races_with_it(make_spec: MakeSpec, model: str, clip: float, precision: str) -> None:
    streams = Simulated()
    spec = make_spec(clip_grad_norm=clip).model_copy(update={"model": MODELS[model]})
    assert watch(spec, streams, precision) == []
    assert streams.forks[BESIDE] > 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_does_the_outcome_of_the_loss_in_one_kernel(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(row_loss, "serves", lambda logits: True)  # as on a GPU
    test_nothing_beside_the_chain_races_with_it(make_spec, "tied", 1.0, precision)


def test_a_chain_that_does_not_wait_is_noticed(make_spec: MakeSpec) -> None:
    """Else the test above would prove nothing."""
    streams = Simulated()
    streams.joins = False
    assert any("adam" in name for name in watch(make_spec(clip_grad_norm=0.0), streams))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(("model", "clip", "precision"), [("tied", 1.0, "bf16"), ("attention", 0.0, "fp32")])
def test_neither_does_what_is_beside_an_ensemble_s(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, model: str, clip: float, precision: Any, waits: bool
) -> None:
    streams, members = Simulated(), []
    streams.joins = waits
    for seed in (0, 1):
        spec = make_spec(seed=seed, clip_grad_norm=clip).model_copy(update={"model": MODELS[model]})
        task = build_task(spec.task)
        own = build_model(spec.model, task.vocab_size)
        members.append(Member(spec, task, own, build_optimizer(own, spec.train), step=0))
    update = EnsembleUpdate(members, Placement(CPU, 1, precision, "test"))
    monkeypatch.setattr(update, "_beside", streams)  # only CUDA has one of its own
    monkeypatch.setattr(update._projections, "_beside", streams)
    assert (run(update, streams) == []) == waits
    assert streams.forks[BESIDE] >= 3
    assert streams.forks[LOOSE] > 10


@pytest.mark.parametrize("loose", [True, False])
def test_loose_work_must_not_follow_other_work_beside_the_chain(loose: bool) -> None:
    streams, value = Simulated(), torch.ones(3)
    races = Races(streams)
    with races:
        with streams.fork(value):
            value.add_(1)
        with streams.fork(value, loose=loose):
            value.add_(1)
    assert bool(races.found) is loose


def test_what_is_not_kept_is_noticed(make_spec: MakeSpec) -> None:
    class Forgetful(Simulated):
        @contextlib.contextmanager
        def fork(self, *made_of: Tensor, loose: bool = False) -> Iterator[None]:
            with super().fork(loose=loose):
                yield

    assert any("given up" in name for name in watch(make_spec(), Forgetful()))


def test_what_is_beside_is_the_same_as_in_the_chain(make_spec: MakeSpec) -> None:
    """On a device that records nothing, forks are in line."""
    beside, value = Beside(CPU), torch.ones(3)
    with beside.fork(value):
        value.add_(1)
    beside.join()
    assert value.tolist() == [2.0] * 3
