"""`mambalab show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from storage.sample import fill_store

if TYPE_CHECKING:
    from storage.home import HomePaths
    from tests.unit.app.conftest import Call, Lab


def test_a_failed_run_shows_its_traceback(call: Call, lab: Lab) -> None:
    done = call("show", lab.runs[2])
    assert done.code == 0
    assert done.stdout.startswith(f"run {lab.runs[2]}\n")
    assert done.stdout.rstrip().endswith("ZeroDivisionError: one over nothing")
    for told in (
        "failed (error)",
        "valid/accuracy  0.25 @ 500",
        "valid/loss      2 @ 250",
        "model.inner    s4d",
        "hardware  device cpu",
        "abc123, changed (2 lines of diff kept)",
        "mambalab submit demo",
        "1  failed  inline",
    ):
        assert told in done.stdout


def test_a_completed_run_shows_no_failure(call: Call, lab: Lab) -> None:
    assert "failed" not in call("show", lab.runs[0]).stdout


def test_a_run_as_json_is_whole(call: Call, lab: Lab) -> None:
    run = call("show", lab.runs[2], "--json").json
    assert run["kind"] == "run"
    assert run["spec"] == {"model": {"inner": "s4d", "d_state": 16}, "seed": 0}
    assert run["facts"]["hardware"] == {"device": "cpu"}
    assert run["provenance"]["git_sha"] == "abc123"
    assert run["latest"]["valid/accuracy"] == {"step": 500, "value": 0.25, "at": 102.0}
    assert [attempt["status"] for attempt in run["attempts"]] == ["failed"]
    assert run["events"]


def test_an_ablation_shows_its_question_and_runs(call: Call, lab: Lab) -> None:
    text = call("show", "demo").stdout
    assert "Does selection matter?" in text
    assert "valid/accuracy (max)" in text
    assert all(run in text for run in lab.runs)
    shown = call("show", lab.ablation, "--json").json
    assert shown["kind"] == "ablation"
    assert [run["id"] for run in shown["runs"]] == list(lab.runs)
    assert shown["spec"] == {"name": "demo"}


def test_notes_and_tags_are_shown(call: Call, lab: Lab) -> None:
    assert call("note", lab.runs[0], "look at the start").code == 0
    assert call("tag", lab.runs[0], "odd").code == 0
    text = call("show", lab.runs[0]).stdout
    assert "look at the start" in text
    assert "tags      odd" in text


@pytest.mark.parametrize("verb", ["show", "logs", "table", "cancel", "retry", "archive"])
def test_an_unknown_name_is_not_found_and_the_nearest_is_named(call: Call, lab: Lab, verb: str) -> None:
    done = call(verb, "demi")
    assert done.code == 3
    assert "Did you mean 'demo'?" in done.stderr
    assert done.stdout == ""


def test_prefixes_must_be_unique(call: Call, lab: Lab) -> None:
    everything = [lab.ablation, lab.single, *lab.runs]
    unique = next(
        lab.single[:length]
        for length in range(1, 11)
        if sum(identity.startswith(lab.single[:length]) for identity in everything) == 1
    )
    assert call("show", unique, "--json").json["id"] == lab.single


def test_an_ambiguous_prefix_is_bad_input_and_lists_its_candidates(call: Call, home: HomePaths) -> None:
    sample = fill_store(home, runs=60, points=1)
    initials = [run_id[0] for run_id in sample.run_ids]
    first = max(initials, key=initials.count)
    sharing = [run_id for run_id in sample.run_ids if run_id.startswith(first)]
    assert len(sharing) > 1
    done = call("show", first)
    assert done.code == 2
    assert min(sharing) in done.stderr
    assert "Type more characters" in done.stderr
