"""`mambalab tag`, `untag`, `note` and `archive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from storage.queries import Reader
    from tests.unit.app.conftest import Call, Lab


def test_tags_are_put_on_runs_and_taken_off(call: Call, lab: Lab, reader: Reader) -> None:
    assert call("tag", lab.single, lab.runs[0], "odd").code == 0
    assert reader.tags(lab.single) == reader.tags(lab.runs[0]) == ["odd"]
    assert call("untag", lab.single, "odd").code == 0
    assert reader.tags(lab.single) == []
    assert reader.tags(lab.runs[0]) == ["odd"]


def test_an_ablation_stands_for_its_runs(call: Call, lab: Lab, reader: Reader) -> None:
    call("tag", "demo", "paper")
    assert all(reader.tags(run_id) == ["paper"] for run_id in lab.runs)
    assert reader.tags(lab.single) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tag", "demo"], "REF... NAME"),
        (["tag", "demo", "two words"], "one word without commas"),
        (["untag", "demo", "odd"], "none of these runs is tagged 'odd'"),
        (["note", "RUN", "  "], "needs some text"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_words_are_bad_input(call: Call, lab: Lab, words: list[str], told: str) -> None:
    done = call(*(lab.single if word == "RUN" else word for word in words))
    assert done.code == 2
    assert told in done.stderr


def test_notes_are_kept_with_runs_and_ablations(call: Call, lab: Lab, reader: Reader) -> None:
    call("note", lab.single, "look again")
    call("note", "demo", "for the talk")
    assert [note.body for note in reader.notes(lab.single)] == ["look again"]
    assert reader.ablation(lab.ablation).note == "for the talk"
    assert call("note", "demo", "").stderr == f"took the note off {lab.ablation}\n"
    assert reader.ablation(lab.ablation).note == ""


def test_an_archived_ablation_leaves_lists_but_not_its_own_table(call: Call, lab: Lab, reader: Reader) -> None:
    call("archive", "demo")
    assert call("ls", "ablations", "--json").json == []
    assert len(call("ls", "ablations", "--all", "--json").json) == 1
    assert [run["id"] for run in call("ls", "--json").json] == [lab.single]
    assert "0.980" in call("table", "demo").stdout
    call("archive", "demo", "--undo")
    assert reader.ablation(lab.ablation).archived is False
