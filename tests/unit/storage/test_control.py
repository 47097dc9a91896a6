"""What a user interface writes: whole or not at all, from as many processes as there are, beside the controller."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from storage import control
from storage.errors import NotFound, StoreLocked, StoreMissing
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from storage.status import RequestKind
from tests.unit.storage.lab import PROVENANCE, begin, new_ablation, new_run, piece, rows_of, start_python, submit


def test_requests_are_all_or_none(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    (run_id,) = submit(repository)
    with pytest.raises(NotFound, match="'gone'"):
        control.request(paths, RequestKind.CANCEL, [run_id, "gone"])
    assert reader.requests(run_id) == []
    (number,) = control.request(paths, RequestKind.CANCEL, [run_id])
    row = reader.requests(run_id)[0]
    assert (row.id, row.kind, row.status, row.payload, row.outcome) == (number, "cancel", "pending", {}, None)


@pytest.mark.parametrize("payload", [None, {}, {"priority": "high"}, {"priority": 10**23}])
def test_a_priority_needs_a_number(repository: Repository, paths: HomePaths, payload: dict[str, str] | None) -> None:
    (run_id,) = submit(repository)
    with pytest.raises(ValueError, match="whole number"):
        control.request(paths, RequestKind.PRIORITY, [run_id], payload)


def test_notes_and_tags(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    one, two = submit(repository, new_run(0), new_run(1))
    control.add_note(paths, one, "  it diverges\n")
    control.add_note(paths, one, "not with warmup")
    assert [note.body for note in reader.notes(one)] == ["it diverges", "not with warmup"]
    control.add_tags(paths, [one, two], ["paper", "best"])
    control.add_tags(paths, [one], ["best"])
    assert (reader.tags(one), reader.run(two).tags) == (["best", "paper"], ("best", "paper"))
    control.remove_tags(paths, [one], ["best", "never"])
    assert (reader.tags(one), reader.tags(two)) == (["paper"], ["best", "paper"])


@pytest.mark.parametrize("name", ["", "two words", "a,b", "a\tb"])
def test_a_tag_is_one_word(repository: Repository, paths: HomePaths, name: str) -> None:
    (run_id,) = submit(repository)
    with pytest.raises(ValueError, match="one word"):
        control.add_tags(paths, [run_id], [name])


def test_an_empty_note_is_none(repository: Repository, paths: HomePaths) -> None:
    (run_id,) = submit(repository)
    with pytest.raises(ValueError, match="some text"):
        control.add_note(paths, run_id, " \n")


def test_archiving_hides_and_shows(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    done = repository.submit(ablation=new_ablation(), runs=[new_run(0), new_run(1)], provenance=PROVENANCE)
    assert done.ablation_id is not None
    one, two = done.run_ids
    control.archive(paths, [one], True)
    assert [run.id for run in reader.runs()] == [two]
    assert {run.id for run in reader.runs(include_archived=True)} == {one, two}
    assert reader.ablation(done.ablation_id).runs_total == 1
    assert reader.count_runs() == {"queued": 1}
    control.archive_ablation(paths, done.ablation_id, True)
    assert (reader.ablations(), reader.runs()) == ([], [])
    hidden = reader.ablations(include_archived=True)[0]
    assert (hidden.archived, hidden.runs_total) == (True, 2)
    control.archive_ablation(paths, done.ablation_id, False)
    assert (len(reader.runs()), reader.ablations()[0].runs_total) == (2, 2)


def test_an_ablations_one_note(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    done = repository.submit(ablation=new_ablation(), runs=[], provenance=PROVENANCE)
    assert done.ablation_id is not None
    control.note_ablation(paths, done.ablation_id, "S6 wins ")
    assert reader.ablation(done.ablation_id).note == "S6 wins"


@pytest.mark.parametrize(
    "write",
    [
        lambda paths: control.add_note(paths, "gone", "x"),
        lambda paths: control.add_tags(paths, ["gone"], ["x"]),
        lambda paths: control.remove_tags(paths, ["gone"], ["x"]),
        lambda paths: control.archive(paths, ["gone"], True),
        lambda paths: control.archive_ablation(paths, "gone", True),
        lambda paths: control.note_ablation(paths, "gone", "x"),
    ],
)
def test_what_does_not_exist_is_named(paths: HomePaths, write: Callable[[HomePaths], object]) -> None:
    with pytest.raises(NotFound, match="'gone'"):
        write(paths)


def test_no_store_is_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    paths = HomePaths(tmp_path_factory.mktemp("none") / "home")
    with pytest.raises(StoreMissing):
        control.request(paths, RequestKind.CANCEL, ["a"])
    assert not paths.root.exists()


def test_a_store_that_another_program_holds(
    repository: Repository, paths: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = submit(repository)
    monkeypatch.setattr(control, "_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(paths.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="held by another process"):
            control.add_note(paths, run_id, "x")
    control.add_note(paths, run_id, "x")


def test_many_processes_beside_the_controller_lose_nothing(repository: Repository, paths: HomePaths) -> None:
    ids = submit(repository, *(new_run(seed) for seed in range(8)))
    begin(repository, ids[0])
    code = (
        "import sys; from storage import control; from storage.home import HomePaths\n"
        "paths, run_id = HomePaths(sys.argv[1]), sys.argv[2]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for index in range(20):\n"
        "    control.request(paths, 'priority', [run_id], {'priority': index})\n"
        "    control.add_note(paths, run_id, f'note {index}')\n"
        "    control.add_tags(paths, [run_id], [f'tag-{index}'])\n"
    )
    processes = [start_python(code, str(paths.root), run_id) for run_id in ids]
    for process in processes:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    step = 0
    while step < 50 or any(process.poll() is None for process in processes):
        step += 1
        assert repository.record(ids[0], 1, piece(step, (step, {"a": float(step)})))
    for process in processes:
        _, error = process.communicate()
        assert (process.returncode, error) == (0, "")
    for table in ("request", "note", "tag"):
        counted = rows_of(paths, f"SELECT run_id, COUNT(*) FROM {table} GROUP BY run_id")
        assert dict(counted) == dict.fromkeys(ids, 20), table
    assert rows_of(paths, "SELECT COUNT(*), MAX(step) FROM metric") == [(step, step)]
