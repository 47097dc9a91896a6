"""`mambalab ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from storage.home import HomePaths
from storage.repository import Repository

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab


def cells(text: str) -> list[dict[str, str]]:
    """Return the rows of a piped table by column."""
    header, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_runs_are_listed_newest_first(call: Call, lab: Lab) -> None:
    done = call("ls")
    assert done.code == 0
    rows = cells(done.stdout)
    assert [row["id"] for row in rows] == [lab.single, *reversed(lab.runs)]
    assert rows[-1] == rows[-1] | {
        "ablation": "demo",
        "trial": "s6",
        "seed": "0",
        "status": "completed",
        "step": "500/1000",
        "metric": "0.99 valid/accuracy",
        "duration": "10.0s",
    }
    assert rows[0]["ablation"] == ""
    assert rows[0]["trial"] == "alone"


def test_status_and_ablation_choose(call: Call, lab: Lab) -> None:
    assert [row["id"] for row in cells(call("ls", "--status", "failed").stdout)] == [lab.runs[2]]
    assert [row["id"] for row in cells(call("ls", "--ablation", "demo").stdout)] == list(lab.runs)
    both = call("ls", "--status", "failed", "--status", "queued", "--ablation", lab.ablation[:6])
    assert [row["id"] for row in cells(both.stdout)] == list(lab.runs[2:])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("status=failed", [2]),
        ("status=completed and valid/accuracy>0.98", [0]),
        ("model.d_state>8 and not (status=failed or seed=1)", [0]),
        ("d_state=16 model.inner=s4d ablation=demo", [3, 2]),
        ("d_state>16", []),
        ("", [3, 2, 1, 0]),
    ],
)
def test_a_filter_chooses(call: Call, lab: Lab, where: str, expected: list[int]) -> None:
    done = call("ls", "--ablation", "demo", "--where", where, "--json")
    assert done.code == 0
    assert sorted(run["id"] for run in done.json) == sorted(lab.runs[index] for index in expected)
    assert ("no run passes the filter" in done.stderr) is not bool(expected)


def test_the_limit_counts_what_passes_a_filter(call: Call, lab: Lab) -> None:
    done = call("ls", "--where", "seed=0", "--limit", "1")
    assert [row["id"] for row in cells(done.stdout)] == [lab.runs[2]]
    assert "only the first 1 are listed" in done.stderr
    only = call("ls", "--where", "status=completed", "--limit", "2")
    assert len(cells(only.stdout)) == 2
    assert only.stderr == ""


@pytest.mark.parametrize(
    ("where", "told", "position"),
    [
        ("status=failed and (seed=1", "this ( is not closed", 18),
        ("seed<many", "< compares numbers, got 'many'", 5),
        ("status=failed and statos=x", "no run has a field 'statos'; the nearest is status", 18),
        ("status=failed and", "something is missing here", 17),
    ],
)
def test_a_filter_that_cannot_be_read_is_shown_with_the_place(
    call: Call, lab: Lab, where: str, told: str, position: int
) -> None:
    done = call("ls", "--where", where)
    assert done.code == 2
    first, shown, place = done.stderr.splitlines()
    assert told in first
    assert first.endswith(f"at character {position + 1}")
    assert shown == f"  {where}"
    assert place.index("^") == 2 + position
    assert done.stdout == ""


def test_a_limit_is_never_silent(call: Call, lab: Lab) -> None:
    done = call("ls", "--limit", "2")
    assert len(cells(done.stdout)) == 2
    assert "only the first 2" in done.stderr
    whole = call("ls", "--limit", "0")
    assert len(cells(whole.stdout)) == 5
    assert whole.stderr == ""


def test_json_has_what_a_script_wants(call: Call, lab: Lab) -> None:
    runs = call("ls", "--json").json
    assert [run["id"] for run in runs] == [lab.single, *reversed(lab.runs)]
    assert runs[-1]["metrics"] == {"valid/accuracy": 0.99, "valid/loss": 2.0}
    assert runs[-1]["axis_labels"] == {"model.inner": "s6"}


def test_ablations_are_counted(call: Call, lab: Lab) -> None:
    (row,) = cells(call("ls", "ablations").stdout)
    assert row["name"] == "demo"
    assert row["runs"] == "4"
    assert row["statuses"] == "1 queued, 2 completed, 1 failed"
    (ablation,) = call("ls", "ablations", "--json").json
    assert ablation["counts"] == {"completed": 2, "failed": 1, "queued": 1}


def test_archived_ones_are_shown_on_demand(call: Call, lab: Lab) -> None:
    call("archive", lab.single)
    assert lab.single not in call("ls").stdout
    assert lab.single in call("ls", "--all").stdout
    call("archive", "--undo", lab.single)
    assert lab.single in call("ls").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ls", "run"], "got 'run', expected one of runs, ablations"),
        (["ls", "--status", "done"], "got 'done', expected one of queued, running"),
        (["ls", "ablations", "--status", "failed"], "choose among runs"),
        (["ls", "ablations", "--where", ""], "choose among runs"),
        (["ls", "--limit", "-1"], "of at least 0"),
        (["ls", "--limit", "many"], "got 'many', expected a whole number"),
        (["ls", "--limits", "1"], "--limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_options_are_bad_input(call: Call, lab: Lab, words: list[str], told: str) -> None:
    done = call(*words)
    assert done.code == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_without_a_store_nothing_is_made(call: Call, home: HomePaths) -> None:
    done = call("ls")
    assert done.code == 3
    assert "no store at" in done.stderr
    assert not home.root.exists()


def test_an_empty_store_says_how_to_begin(call: Call, home: HomePaths) -> None:
    Repository(home).close()
    done = call("ls")
    assert done.code == 0
    assert "mambalab submit demo" in done.stderr


def test_where_all_is_archived_it_is_said(call: Call, lab: Lab) -> None:
    call("archive", "demo")
    assert "all ablations are archived; --all lists them" in call("ls", "ablations").stderr
    assert "no such run; --all looks among archived ones too" in call("ls", "--status", "failed").stderr
    call("archive", lab.single)
    assert "all runs are archived; --all lists them" in call("ls").stderr


def test_a_narrow_terminal_keeps_what_tells_runs_apart(call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (["ls"], ["ls", "ablations"]):
        lines = call(*words).stdout.splitlines()
        assert max(map(len, lines)) <= 40
        assert lines[0].startswith("id")
    monkeypatch.setenv("COLUMNS", "80")
    assert "0.99 valid/ac…" in call("ls").stdout  # the number stays where its name is cut
