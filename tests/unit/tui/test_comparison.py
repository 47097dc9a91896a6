"""How runs are grouped for a comparison, and what is said to differ between the groups."""

from __future__ import annotations

import json
from typing import Any

from storage.rows import RunRow
from tests.unit.tui.rows import make_run
from tui.comparison import differing, grouped, grouped_by


def run(num: int, d_state: int, *, trial: int | None = None, **train: Any) -> RunRow:
    """Return a run, of an ablation's trial where one is named."""
    spec = {"model": {"d_state": d_state}, "train": {"lr": 0.1, **train}, "seed": num}
    more: dict[str, Any] = {} if trial is None else {"ablation_id": "abl", "ablation": "demo", "trial_index": trial}
    label = "" if trial is None else f"d_state {d_state}"
    return make_run(num, spec_json=json.dumps(spec), seed=num, trial_label=label, **more)


def test_a_trials_seeds_are_one_group_also_where_a_newer_version_added_some() -> None:
    runs = [
        run(0, 8, trial=0),
        run(1, 16, trial=1),
        run(2, 8, trial=0, probe_every=0),
        run(3, 16, trial=1, probe_every=0),
    ]
    groups = grouped(runs)
    assert {name: [one.seed for one in members] for name, members in groups.items()} == {
        "d_state 8": [0, 2],
        "d_state 16": [1, 3],
    }
    assert differing(groups) == {"model.d_state": ["8", "16"]}


def test_single_runs_are_grouped_by_what_they_compute() -> None:
    groups = grouped([run(0, 8), run(1, 8), run(2, 16)])
    assert [len(members) for members in groups.values()] == [2, 1]


def test_any_field_makes_groups_and_what_varies_within_is_counted() -> None:
    runs = [run(0, 16), run(1, 8), run(2, 8, lr=0.2), run(3, 8, warmup_steps=5)]
    groups = grouped_by(runs, "d_state", lambda one: one.config["model.d_state"])
    assert list(groups) == ["d_state = 8", "d_state = 16"]
    assert differing(groups) == {
        "model.d_state": ["8", "16"],
        "train.lr": ["(2 values)", "0.1"],
        "train.warmup_steps": ["5", "–"],
    }
    assert list(grouped_by(runs, "lr", lambda one: one.config.get("none"))) == ["lr = none"]
