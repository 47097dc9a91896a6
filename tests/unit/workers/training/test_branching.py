"""A checkpoint as the beginning of another run: what it computes from there, and what cannot go on from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.workers.training.conftest import Execute, MakeSpec
from workers.errors import CheckpointError, SpecError
from workers.training.branching import branch_checkpoint, check_branch
from workers.training.checkpoint import read_checkpoint

ORIGIN = {"from_run": "abc", "from_step": 10}


def test_the_same_spec_goes_on_to_the_same_end_bit_for_bit(
    execute: Execute, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(checkpoint_every=10, eval_every=5)
    whole = execute(spec)
    checkpoint = read_checkpoint(whole.folder / "checkpoints" / "step-000010")
    branch_checkpoint(checkpoint, spec, tmp_path / "checkpoints", ORIGIN)
    branched = execute(spec, folder=tmp_path)
    assert (branched.result.resumed_from, branched.result.step) == (10, 20)
    assert branched.curve() == {place: value for place, value in whole.curve().items() if place[0] > 10}
    assert branched.weights() == whole.weights()


def test_another_rate_is_accepted_and_the_original_stays_as_it_was(
    execute: Execute, make_spec: MakeSpec, tmp_path: Path
) -> None:
    first = execute(make_spec(steps=10))
    folder = first.folder / "checkpoints" / "step-000010"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = make_spec(steps=14, lr=1e-3)
    placed = branch_checkpoint(read_checkpoint(folder), other, tmp_path / "checkpoints", ORIGIN)
    assert read_checkpoint(placed).state["origin"] == ORIGIN
    assert read_checkpoint(placed).state["spec"]["train"]["lr"] == 1e-3
    branched = execute(other, folder=tmp_path)
    assert (branched.result.resumed_from, branched.result.step) == (10, 14)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_model_and_a_finished_run_are_refused(execute: Execute, make_spec: MakeSpec) -> None:
    spec = make_spec(steps=4)
    first = execute(spec)
    checkpoint = read_checkpoint(first.folder / "checkpoints" / "step-000004")
    wider = spec.model_copy(update={"model": spec.model.model_copy(update={"d_state": 8})})
    with pytest.raises(SpecError, match=r"model.d_state=8: the checkpoint holds a model with model.d_state 4"):
        check_branch(checkpoint, wider)
    with pytest.raises(SpecError, match=r"--set train.steps=8"):
        check_branch(checkpoint, spec)


def test_nothing_is_left_behind_where_the_disk_refuses(
    execute: Execute, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = execute(make_spec(steps=4))
    checkpoint = read_checkpoint(first.folder / "checkpoints" / "step-000004")

    def full(*_arguments: object, **_more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match="Free space"):
        branch_checkpoint(checkpoint, make_spec(steps=8), tmp_path / "checkpoints", ORIGIN)
    assert list((tmp_path / "checkpoints").iterdir()) == []
