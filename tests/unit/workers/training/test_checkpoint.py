"""Checkpoints are whole or ignored, whatever happens while one is written or after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from workers.errors import CheckpointError
from workers.specs import ModelSpec, ResourceSpec, RunSpec, TrainSpec
from workers.training import checkpoint as module
from workers.training.checkpoint import CheckpointStore, check_identity
from workers.training.identity import identity_hash

SPEC = RunSpec()
STATE = {"random": {"cpu": "", "cuda": ""}, "progress": {}}


class Tied(nn.Module):
    """Two names for one weight, as a tied head has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


class Place:
    """A store in a folder, the model and optimizer it saves, and what it reported."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.model = Tied()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.reports: list[str] = []
        self.directory = directory
        self.store = CheckpointStore(directory, keep=keep, report=self.reports.append)

    def train(self) -> None:
        self.model.head(self.model.embedding(torch.arange(5))).square().sum().backward()
        self.optimizer.step()

    def save(self, step: int) -> None:
        self.store.save(step, self.model, self.optimizer, SPEC, STATE)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "checkpoints")


def test_nothing_saved_is_nothing_found(place: Place) -> None:
    assert place.store.newest() is None


def test_model_and_optimizer_come_back_bit_for_bit_with_tied_weights(place: Place, tmp_path: Path) -> None:
    place.train()
    place.save(7)
    other = Place(tmp_path / "checkpoints")
    found = other.store.newest()
    assert found is not None
    assert found.step == 7
    found.load(other.model, other.optimizer)
    assert other.model.head.weight is other.model.embedding.weight
    for (name, mine), theirs in zip(place.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        for slot, value in place.optimizer.state[mine].items():
            assert torch.equal(value, other.optimizer.state[theirs][slot]), (name, slot)


def test_only_the_newest_ones_are_kept(place: Place) -> None:
    for step in (1, 2, 3, 1000000):
        place.save(step)
    assert place.names() == ["step-000003", "step-1000000"]


def test_a_crash_before_the_rename_leaves_the_old_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.save(1)

    def crash(temporary: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_publish", crash)
    with pytest.raises(KeyboardInterrupt):
        place.save(2)
    found = place.store.newest()
    assert found is not None
    assert found.step == 1
    assert place.reports == []
    place.store.remove_leftovers()
    assert place.names() == ["step-000001"]


def test_a_full_disk_is_an_error_and_costs_no_older_checkpoint(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.save(1)
    place.save(2)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_sync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        place.save(3)
    assert place.names() == ["step-000001", "step-000002"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def blank(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, blank, Path.unlink], ids=lambda damage: str(damage.__name__))
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_torn_checkpoint_is_reported_and_passed_over(place: Place, name: str, damage: Callable[[Path], None]) -> None:
    place.train()
    place.save(1)
    place.save(2)
    damage(place.directory / "step-000002" / name)
    found = place.store.newest()
    assert found is not None
    assert found.step == 1
    assert len(place.reports) == 1
    assert place.reports[0].startswith("ignored checkpoint step-000002: ")


def test_a_later_format_is_not_guessed_at(place: Place) -> None:
    place.save(1)
    path = place.directory / "step-000001" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    assert place.store.newest() is None
    assert place.reports == ["ignored checkpoint step-000001: format 2, this version reads 1"]


def test_a_torn_checkpoint_is_replaced_by_a_whole_one_of_its_step(place: Place) -> None:
    place.save(1)
    blank(place.directory / "step-000001" / "state.json")
    place.save(1)
    assert place.store.newest() is not None
    assert place.names() == ["step-000001"]


def test_a_model_of_another_shape_is_refused(place: Place) -> None:
    place.save(1)
    found = place.store.newest()
    assert found is not None
    other = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        found.load(other, torch.optim.AdamW(other.parameters()))


def test_longer_runs_and_other_resources_are_the_same_run() -> None:
    longer = SPEC.model_copy(
        update={
            "train": SPEC.train.model_copy(update={"steps": 9999, "keep_checkpoints": 5, "threads": 3}),
            "resources": ResourceSpec(cpus=7),
        }
    )
    assert identity_hash(longer) == identity_hash(SPEC)


@pytest.mark.parametrize(
    "other",
    [SPEC.model_copy(update={"seed": 1}), RunSpec(model=ModelSpec(d_state=8)), RunSpec(train=TrainSpec(lr=0.5))],
    ids=["seed", "model", "lr"],
)
def test_a_run_that_computes_something_else_is_refused_by_name(place: Place, other: RunSpec) -> None:
    place.save(1)
    found = place.store.newest()
    assert found is not None
    check_identity(found, SPEC)
    with pytest.raises(CheckpointError, match=r"belongs to another spec \((seed|model.d_state|train.lr): "):
        check_identity(found, other)


def test_a_checkpoint_past_the_last_step_is_refused(place: Place) -> None:
    place.save(2000)
    found = place.store.newest()
    assert found is not None
    with pytest.raises(CheckpointError, match="step 2000, train.steps 1000"):
        check_identity(found, SPEC)
