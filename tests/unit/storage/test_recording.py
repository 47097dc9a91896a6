"""What an attempt reports is stored once, whole, and only while no newer attempt has begun."""

from __future__ import annotations

import math

import pytest

from storage.errors import Conflict, NotFound
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import AttemptEnd, Repository
from storage.status import AttemptStatus
from tests.unit.storage.lab import begin, piece, rows_of, submit


def fail(repository: Repository, run_id: str, number: int) -> None:
    """End an attempt so that the run waits for another."""
    assert repository.finish_attempt(run_id, number, AttemptEnd(AttemptStatus.LOST, now=2000.0, retry_at=0.0))


def points(reader: Reader, run_id: str, key: str) -> list[tuple[int, float]]:
    series = reader.series(run_id, key)
    return list(zip(series.steps, series.values, strict=True))


def test_rows_become_curves_latest_values_and_the_runs_own_metrics(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    assert repository.record(run_id, 1, piece(10, (1, {"train/loss": 2.0}), (2, {"train/loss": 1.5, "train/lr": 0.1})))
    assert points(reader, run_id, "train/loss") == [(1, 2.0), (2, 1.5)]
    assert list(reader.series(run_id, "train/loss").at) == [1001.0, 1002.0]
    assert points(reader, run_id, "train/lr") == [(2, 0.1)]
    run = reader.run(run_id)
    assert (run.step, run.heartbeat_at, run.metrics) == (2, 1010.0, {"train/loss": 1.5, "train/lr": 0.1})
    assert {key: (value.step, value.value, value.at) for key, value in reader.latest(run_id).items()} == {
        "train/loss": (2, 1.5, 1002.0),
        "train/lr": (2, 0.1, 1002.0),
    }
    assert reader.metric_keys(run_id) == ["train/loss", "train/lr"]


def test_a_piece_delivered_twice_changes_nothing(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    first = piece(10, (1, {"a": 1.0}), notes=[("warning", {"message": "hot"})])
    assert repository.record(run_id, 1, first)
    assert repository.record(run_id, 1, piece(20, (1, {"a": 9.0})))
    assert not repository.record(run_id, 1, first)
    assert not repository.record(run_id, 1, piece(20, (1, {"a": 7.0})))
    assert points(reader, run_id, "a") == [(1, 9.0)]
    assert [event.kind for event in reader.events(run_id)] == ["submitted", "started", "warning"]
    assert rows_of(paths, 'SELECT attempt, "offset" FROM spool_cursor') == [(1, 20)]


def test_an_older_attempt_can_write_nothing(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    fail(repository, run_id, 1)
    assert repository.record(run_id, 1, piece(5, (1, {"a": 1.0}))), "its last words count until another has begun"
    begin(repository, run_id)
    before = reader.run(run_id)
    assert not repository.record(run_id, 1, piece(99, (50, {"a": 5.0}), notes=[("hardware", {"gpu": 1})]))
    assert not repository.finish_attempt(run_id, 1, AttemptEnd(AttemptStatus.COMPLETED, now=1.0, step=50))
    assert reader.run(run_id) == before
    assert reader.run_facts(run_id) == {}
    assert repository.running()[0].number == 2


def test_an_attempt_that_has_not_begun_is_an_error(repository: Repository) -> None:
    (run_id,) = submit(repository)
    with pytest.raises(Conflict, match="attempt 1 of run .* has not begun: the newest is 0"):
        repository.record(run_id, 1, piece(1))
    with pytest.raises(NotFound, match="'gone'"):
        repository.record("gone", 1, piece(1))


def test_numbers_that_json_does_not_have(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    values = {"nan": math.nan, "up": math.inf, "down": -math.inf}
    repository.record(run_id, 1, piece(1, (1, {**values, "nan": 1.0}), (2, values)))
    stored = rows_of(
        paths, "SELECT name, value FROM latest JOIN metric_key ON metric_key.id = latest.key ORDER BY name"
    )
    assert stored == [("down", -math.inf), ("nan", None), ("up", math.inf)]
    for read in (reader.run(run_id).metrics, {key: value.value for key, value in reader.latest(run_id).items()}):
        assert math.isnan(read.pop("nan"))
        assert read == {"up": math.inf, "down": -math.inf}
    assert reader.series(run_id, "nan").values[0] == 1.0
    assert math.isnan(reader.series(run_id, "nan").values[1])


def test_the_latest_value_is_the_one_of_the_highest_step(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    repository.record(run_id, 1, piece(1, (5, {"a": 5.0}), (3, {"a": 3.0})))
    repository.record(run_id, 1, piece(2, (4, {"a": 4.0, "b": 1.0}), (4, {"b": 2.0})))
    assert reader.run(run_id).metrics == {"a": 5.0, "b": 2.0}
    assert reader.run(run_id).step == 5
    repository.record(run_id, 1, piece(3, (5, {"a": 5.5})))
    assert reader.run(run_id).metrics["a"] == 5.5


def test_a_curve_past_a_step_and_an_unknown_one(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    repository.record(run_id, 1, piece(1, *((step, {"a": float(step)}) for step in range(600))))
    assert points(reader, run_id, "a") == [(step, float(step)) for step in range(600)]
    assert list(reader.series(run_id, "a", after_step=597).steps) == [598, 599]
    assert len(reader.series(run_id, "b")) == 0
    with pytest.raises(NotFound):
        reader.series("gone", "a")


def test_notes_go_where_they_belong(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    notes = [
        ("hardware", {"device": "cpu", "memory": math.inf}),
        ("resume", {"step": 40, "path": "checkpoints/step-000040"}),
        ("checkpoint", {"step": 50, "path": "checkpoints/step-000050"}),
        ("checkpoint", {"step": 50, "path": "checkpoints/step-000050", "bytes": 12}),
        ("warning", {"message": "loss is not a number"}),
        ("hardware", {"device": "cuda"}),
    ]
    repository.record(run_id, 1, piece(1, notes=notes))
    repository.record(run_id, 1, piece(2, notes=[("model", {"parameters": 7})]))
    assert reader.run_facts(run_id) == {"hardware": {"device": "cuda"}, "model": {"parameters": 7}}
    assert [(row.step, row.path, row.bytes, row.attempt) for row in reader.checkpoints(run_id)] == [
        (50, "checkpoints/step-000050", 12, 1)
    ]
    assert reader.attempts(run_id)[0].resumed_from == 40
    assert [(event.kind, event.data) for event in reader.events(run_id)][2:] == [
        ("resumed", {"step": 40, "path": "checkpoints/step-000040"}),
        ("warning", {"message": "loss is not a number"}),
    ]


@pytest.mark.parametrize("note", [("checkpoint", {"step": "x", "path": "p"}), ("checkpoint", {}), ("resume", {})])
def test_a_note_that_cannot_be_read_does_not_stop_the_spool(
    repository: Repository, reader: Reader, note: tuple[str, dict[str, object]]
) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    assert repository.record(run_id, 1, piece(1, (1, {"a": 1.0}), notes=[note]))
    assert reader.run(run_id).metrics == {"a": 1.0}
    assert "unreadable note" in reader.events(run_id)[-1].data["message"]


def test_a_completed_attempt_takes_the_abandoned_branch_along(
    repository: Repository, paths: HomePaths, reader: Reader
) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    repository.record(run_id, 1, piece(1, *((step, {"a": 1.0, "b": 1.0}) for step in (10, 20, 30, 40))))
    fail(repository, run_id, 1)
    begin(repository, run_id)
    repository.record(run_id, 2, piece(1, (30, {"a": 2.0}), notes=[("resume", {"step": 20})]))
    assert points(reader, run_id, "a") == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 1.0)], "kept while it may be needed"
    assert repository.finish_attempt(run_id, 2, AttemptEnd(AttemptStatus.COMPLETED, now=3000.0, step=30))
    assert points(reader, run_id, "a") == [(10, 1.0), (20, 1.0), (30, 2.0)]
    assert points(reader, run_id, "b") == [(10, 1.0), (20, 1.0)]
    run = reader.run(run_id)
    assert (run.step, run.metrics) == (30, {"a": 2.0, "b": 1.0})
    assert rows_of(paths, "SELECT step, value, attempt FROM latest ORDER BY key") == [(30, 2.0, 2), (20, 1.0, 1)]


def test_a_failing_piece_takes_its_transaction_along(repository: Repository, reader: Reader) -> None:
    one, two = submit(repository), submit(repository)
    for (run_id,) in (one, two):
        begin(repository, run_id)
    with pytest.raises(Conflict):
        repository.record_many([(one[0], 1, piece(1, (1, {"new": 1.0}))), (two[0], 2, piece(1))])
    assert reader.run(one[0]).metrics == {}
    assert repository.record_many([(one[0], 1, piece(1, (1, {"new": 1.0}))), (two[0], 1, piece(1))]) == [True, True]
    assert reader.run(one[0]).metrics == {"new": 1.0}, "the name's number was made anew"
