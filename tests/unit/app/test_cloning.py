"""Options of `mambalab run` for a spec that was edited: they describe it in full, with what differs alone."""

from __future__ import annotations

from typing import Any

import pytest

from app.cloning import Launcher, options_of
from storage.home import HomePaths
from workers.ablation import build_run

SPECS: list[dict[str, Any]] = [
    {},
    {"task": {"name": "copying", "context": 64}, "model": {"d_state": 8}, "train": {"lr": 2e-5}, "seed": 3},
    {"task": {"name": "text", "path": "/tmp/a b = 3.txt"}},
    {"task": {"name": "selective-copying", "context": 16}},
    {"task": {"name": "mqar"}, "model": {"expand": 1}, "train": {"eval_lengths": [64, 128]}},
]


@pytest.mark.parametrize("spec", SPECS)
def test_the_options_describe_the_same_run(spec: dict[str, Any]) -> None:
    wanted = build_run([], base=spec)
    options = options_of(wanted.model_dump(mode="json"))
    assert build_run(options[1::2]) == wanted
    assert options == options_of(spec)


def test_only_what_differs_from_the_defaults_is_set() -> None:
    assert options_of(SPECS[0]) == []
    assert options_of({"model": {"d_state": 8}, "task": {"name": "copying"}}) == [
        "--set", "model.d_state=8", "--set", "task.name=copying",
    ]  # fmt: skip


def test_a_spec_that_is_not_valid_is_refused_and_a_command_that_fails_says_why(home: HomePaths) -> None:
    launcher = Launcher(home)
    assert launcher.options({"seed": 4}) == ["--set", "seed=4"]
    with pytest.raises(ValueError, match=r"train\.lr"):
        launcher.options({"train": {"lr": -1}})
    with pytest.raises(OSError, match="d_sate"):
        launcher.submit(["run", "--detach", "--set", "model.d_sate=3"])
