"""`mambalab add-seeds` and `resume`: what they queue, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.errors import StoreLocked
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from workers.jobs.submission import SubmitOptions
from workers.specs import RunSpec, spec_hash

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab

MINE = """
seeds = [3, 4]
[metric]
key = "valid/accuracy"
direction = "max"
[baseline.task]
name = "copying"
context = 16
memorize = 4
[baseline.train]
steps = 4
batch_size = 2
device = "cpu"
[baseline.model]
d_model = 16
n_layer = 1
[[axes]]
key = "model.d_state"
values = [4, 8]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """An ablation of two trials and two seeds."""
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def hashes(home: HomePaths, ablation: str) -> dict[tuple[str, int], str]:
    """Return what each trial and seed of an ablation computes."""
    with Reader(home) as store:
        runs = store.runs(ablation_id=store.resolve_ablation(ablation))
        specs = {(run.trial_label, run.seed): store.run_spec(run.id) for run in runs}
    return {key: spec_hash(RunSpec.model_validate_json(json.dumps(spec))) for key, spec in specs.items()}


def train(call: Call, steps: int, *more: str) -> str:
    """Train a small run in this process and return its id."""
    settings = ("task.name=copying", "task.context=16", f"train.steps={steps}", "train.batch_size=2", "model.d_model=16",
                "train.device=cpu", *more)  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    ids: list[str] = call("run", "--executor", "inline", "--json", *options).json["run_ids"]
    return ids[0]


@pytest.mark.usefixtures("mine")
def test_a_count_adds_the_seeds_that_follow_and_queues_only_those(
    call: Call, home: HomePaths, started: list[SubmitOptions]
) -> None:
    call("submit", "mine.toml")
    done = call("add-seeds", "mine", "2", "--priority", "3")
    assert done.code == 0
    assert "queued mine: 4 runs, seeds 5, 6" in done.stderr
    assert len(started) == 2
    with Reader(home) as store:
        ablation = store.ablation(store.resolve_ablation("mine"))
        runs = store.runs(ablation_id=ablation.id)
    assert (ablation.id, ablation.seeds, ablation.spec["seeds"]) == (done.stdout.strip(), (3, 4, 5, 6), [3, 4, 5, 6])
    assert [(run.trial_label, run.seed, run.priority, run.name) for run in runs if run.seed > 4] == [
        ("4", 5, 3, "mine/0-s5"),
        ("4", 6, 3, "mine/0-s6"),
        ("8", 5, 3, "mine/1-s5"),
        ("8", 6, 3, "mine/1-s6"),
    ]
    assert len(runs) == 8
    call("submit", "mine.toml", "--seeds", "3,4,5,6", "--name", "whole")
    assert hashes(home, "mine") == hashes(home, "whole")


@pytest.mark.usefixtures("mine", "started")
def test_a_list_adds_exactly_those_and_a_seed_that_is_there_is_refused(call: Call, home: HomePaths) -> None:
    call("submit", "mine.toml")
    assert call("add-seeds", "mine", "9,1").code == 0
    refused = call("add-seeds", "mine", "8,9")
    assert refused.code == 2
    assert "it has seed 9 already; its seeds are 3, 4, 9, 1" in refused.stderr
    with Reader(home) as store:
        assert store.ablation(store.resolve_ablation("mine")).runs_total == 8


@pytest.mark.usefixtures("mine", "started")
def test_a_dry_run_prints_the_new_runs_alone(call: Call, home: HomePaths) -> None:
    call("submit", "mine.toml")
    done = call("add-seeds", "mine", "2", "--dry-run")
    assert "2 trials x 2 seeds = 4 runs" in done.stderr
    assert done.stdout.splitlines()[1].split("\t")[:3] == ["0", "4", "5,6"]
    with Reader(home) as store:
        assert store.ablation(store.resolve_ablation("mine")).seeds == (3, 4)


@pytest.mark.parametrize("seeds", ["none", "0"])
def test_what_are_no_seeds_says_what_they_look_like(call: Call, seeds: str) -> None:
    refused = call("add-seeds", "mine", seeds)
    assert refused.code == 2
    assert refused.stderr.startswith("error: SEEDS: got ")


def test_a_trained_run_goes_on_from_its_checkpoint_as_a_run_of_its_own(call: Call, home: HomePaths) -> None:
    first = train(call, 4, "train.checkpoint_every=2")
    nothing_left = call("resume", first)
    assert nothing_left.code == 2
    assert "--set train.steps=8" in nothing_left.stderr
    assert "it has 2, 4" in call("resume", first, "--from", "3").stderr
    done = call("resume", first, "--from", "2", "--set", "train.lr=0.01", "--executor", "inline", "--json")
    assert done.code == 0, done.stderr
    second = done.json["run_ids"][0]
    with Reader(home) as store:
        run, origin = store.run(second), store.events(second)[0]
        assert (run.name, run.status, run.step, run.ablation_id) == ("copying@2", "completed", 4, None)
        assert (origin.kind, origin.data) == ("submitted", {"from_run": first, "from_step": 2})
        assert store.attempts(second)[0].resumed_from == 2
        assert store.run(first).step == 4
    assert "from_step" in call("show", second).stdout


def test_a_run_without_checkpoints_says_so(call: Call, lab: Lab) -> None:
    refused = call("resume", lab.single)
    assert refused.code == 2
    assert "has no checkpoint" in refused.stderr


@pytest.mark.usefixtures("started")
def test_nothing_is_left_behind_where_the_run_cannot_be_stored(
    call: Call, home: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(call, 2)

    def locked(*_: object, **__: object) -> None:
        raise StoreLocked("the store is locked")

    monkeypatch.setattr(Repository, "submit", locked)
    refused = call("resume", first, "--set", "train.steps=4", "--detach")
    assert refused.code == 1
    assert [path.name for path in home.runs.iterdir()] == [first]
