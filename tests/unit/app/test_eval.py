"""`mambalab eval`: a trained checkpoint at other lengths, and what is said where that cannot be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from app.commands.options import parse_lengths
from app.errors import CommandError
from app.main import run
from storage.home import HomePaths
from storage.queries import Reader

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

SETTINGS = {
    "task.name": "induction-heads",
    "task.seqlen": 16,
    "task.vocab": 8,
    "model.d_model": 8,
    "model.n_layer": 1,
    "model.d_state": 4,
    "train.steps": 3,
    "train.batch_size": 4,
    "train.eval_batches": 2,
    "train.eval_lengths": [8, 32],
    "train.device": "cpu",
}


class Trained(NamedTuple):
    """A store with one completed run, and that run's id."""

    paths: HomePaths
    run_id: str

    @property
    def checkpoint(self) -> Path:
        """The run's last checkpoint."""
        return self.paths.checkpoints(self.run_id) / "step-000003"


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny run, trained in this process."""
    folder = tmp_path_factory.mktemp("trained")
    here = Path.cwd()
    os.chdir(folder)
    words = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    try:
        with pytest.raises(SystemExit) as ended:
            run(["--home", str(folder / "lab"), "run", "--executor", "inline", *words])
    finally:
        os.chdir(here)
    assert not ended.value.code
    paths = HomePaths(folder / "lab")
    with Reader(paths) as store:
        (row,) = store.runs()
    return Trained(paths, row.id)


@pytest.fixture
def trained(lab_folder: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The trained run, its store being the one that commands work on."""
    monkeypatch.setenv("MAMBALAB_HOME", str(lab_folder.paths.root))
    return lab_folder


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        (None, None),
        ("64", [64]),
        ("64..512", [64, 128, 256, 512]),
        ("64..1000", [64, 128, 256, 512]),
        ("3..3", [3]),
        ("64, 256,64", [64, 256]),
        ("1..4,1_000", [1, 2, 4, 1000]),
    ],
)
def test_lengths_are_read(text: str | None, lengths: list[int] | None) -> None:
    assert parse_lengths(text) == lengths


def test_a_range_reaches_a_million() -> None:
    lengths = parse_lengths("64..1048576")
    assert lengths is not None
    assert lengths == [2**power for power in range(6, 21)]


@pytest.mark.parametrize("text", ["", "a", "0", "0..4", "8..4", "64..", "..64", "64...128", "-1", "1.5", "8,,9"])
def test_bad_lengths_name_the_form(text: str) -> None:
    with pytest.raises(CommandError, match=r"expected a range that doubles such as 64\.\.1048576") as refused:
        parse_lengths(text)
    assert refused.value.code == 2


def test_a_run_is_evaluated_at_every_length(call: Call, trained: Trained) -> None:
    done = call("eval", trained.run_id[:8], "--lengths", "8..32,100", "--json")
    assert done.code == 0, done.stderr
    found = done.json
    assert (found["run"], found["step"], found["sequences"]) == (trained.run_id, 3, 8)
    assert found["task"]["name"] == "induction-heads"
    assert [row["length"] for row in found["rows"]] == [8, 16, 32, 100]
    assert "length 100: accuracy" in done.stderr
    with Reader(trained.paths) as store:
        metrics = store.run(trained.run_id).metrics
    for row, suffix in zip(found["rows"], ("@8", "", "@32"), strict=False):
        for name in ("valid/accuracy", "valid/loss"):
            assert row["metrics"][name] == pytest.approx(metrics[name + suffix], rel=1e-5)


def test_a_folder_is_evaluated_and_printed_as_a_table(call: Call, trained: Trained) -> None:
    done = call("eval", str(trained.checkpoint), "--batches", "1", "--batch-size", "2", "--seed", "5")
    assert done.code == 0, done.stderr
    header, row = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["length", "loss", "accuracy", "sequence_accuracy", "time"]
    assert row[0] == "16"
    assert "2 held-out sequences" in done.stderr


def test_the_seed_and_the_task_can_be_others(call: Call, trained: Trained) -> None:
    own, other, again = (
        call("eval", trained.run_id, "--json", *words).json["rows"][0]["metrics"]["valid/loss"]
        for words in ([], ["--seed", "5"], ["--seed", "5"])
    )
    assert own != other == again
    copying = ["--task", "copying", "--set", "task.vocab=8", "--set", "task.memorize=2", "--lengths", "24"]
    found = call("eval", trained.run_id, *copying, "--json").json
    assert (found["task"]["name"], found["task"]["memorize"], found["rows"][0]["length"]) == ("copying", 2, 24)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "copying"], "copying has 16 tokens and the model knows 8"),
        (["--task", "copyin"], "copyin"),
        (["--set", "model.d_model=4"], "a trained model is evaluated as it is"),
        (["--set", "task.seqle=4"], "did you mean `task.seqlen`?"),
        (["--set", "task.trigger_prefix=10", "--lengths", "8"], "trigger_prefix must be at most"),
        (["--lengths", "2"], "length 2 of induction-heads"),
        (["--lengths", "many"], "expected a range that doubles"),
    ],
)
def test_what_cannot_be_is_bad_input(call: Call, trained: Trained, words: list[str], said: str) -> None:
    done = call("eval", trained.run_id, *words)
    assert done.code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_damaged_checkpoint_is_bad_input(call: Call, trained: Trained, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained.checkpoint, tmp_path / "best"))
    assert call("eval", "best").code == 0
    (copy / "model.safetensors").unlink()
    done = call("eval", "best")
    assert done.code == 2
    assert "is no whole checkpoint" in done.stderr
    assert "Name a run, or a folder" in done.stderr


def test_a_run_without_a_checkpoint_says_what_to_do(call: Call, lab: Lab) -> None:
    failed, queued = lab.runs[2:]
    done = call("eval", failed)
    assert done.code == 2
    assert f"run {failed} is failed and has no whole checkpoint" in done.stderr
    assert f"`mambalab retry {failed}`" in done.stderr
    assert "wait for it to start" in call("eval", queued).stderr


def test_an_unknown_run_is_not_found(call: Call, lab: Lab) -> None:
    assert call("eval", "zzzz").code == 3
    several = call("eval", "demo")
    assert several.code == 2
    assert "takes a single run" in several.stderr


def test_without_a_store_nothing_is_found(call: Call) -> None:
    assert call("eval", "abcd").code == 3
