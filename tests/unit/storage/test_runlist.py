"""The list of runs: every field, in order, and brought up to date by whatever has changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage import control
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import AttemptEnd, Repository
from storage.rows import RunRow
from storage.status import AttemptStatus
from tests.unit.storage.lab import PROVENANCE, begin, execute, new_ablation, new_run, piece, rows_of, submit


def test_every_field_of_a_row(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    run = new_run(7, trial_index=2, trial_label="s6", axis_labels={"inner": "s6"}, axis_values={"inner": "s6"})
    done = repository.submit(ablation=new_ablation(), runs=[run], provenance=PROVENANCE)
    (run_id,) = done.run_ids
    begin(repository, run_id)
    repository.record(run_id, 1, piece(5, (30, {"a": 1.0})))
    control.add_tags(paths, [run_id], ["paper"])
    (row,) = reader.runs()
    expected = RunRow(
        num=1,
        id=run_id,
        ablation_id=done.ablation_id,
        ablation="demo",
        name="demo",
        trial_index=2,
        trial_label="s6",
        axis_labels={"inner": "s6"},
        axis_values={"inner": "s6"},
        seed=7,
        status="running",
        step=30,
        total_steps=100,
        attempt=1,
        max_attempts=3,
        priority=0,
        reason=None,
        error=None,
        created_at=row.created_at,
        started_at=1000.0,
        finished_at=None,
        heartbeat_at=1005.0,
        archived=False,
        tags=("paper",),
        metrics={"a": 1.0},
        spec_json='{"model":{"d_state":8,"inner":"s6"},"seed":7}',
    )
    assert row == expected
    assert repr(row) == repr(expected)
    assert row.config == {"model.d_state": 8, "model.inner": "s6", "seed": 7}
    assert row.config is row.config
    assert (row.progress, row.duration_s) == (0.3, 5.0)
    with pytest.raises(AttributeError):
        row.step = 3  # type: ignore[misc]  # that it is frozen is what is tested


def test_order_limits_and_filters(repository: Repository, reader: Reader) -> None:
    ids = submit(repository, *(new_run(seed) for seed in range(300)))
    begin(repository, ids[4])
    assert [run.id for run in reader.runs()] == list(reversed(ids))
    assert [run.id for run in reader.runs(limit=2)] == [ids[299], ids[298]]
    assert [run.id for run in reader.runs(statuses=["running", "failed"])] == [ids[4]]
    assert len(reader.runs(statuses={"queued"})) == 299
    assert reader.runs(ablation_id="none") == []


CHANGES: dict[str, Callable[[Repository, HomePaths, str], object]] = {
    "metrics": lambda repository, paths, run_id: repository.record(run_id, 1, piece(9, (9, {"b": 2.0}))),
    "end": lambda repository, paths, run_id: repository.finish_attempt(
        run_id, 1, AttemptEnd(AttemptStatus.FAILED, now=2000.0)
    ),
    "tag": lambda repository, paths, run_id: control.add_tags(paths, [run_id], ["new"]),
    "untag": lambda repository, paths, run_id: control.remove_tags(paths, [run_id], ["old"]),
    "archive": lambda repository, paths, run_id: control.archive(paths, [run_id], True),
    "another program": lambda repository, paths, run_id: execute(
        paths, "UPDATE run SET name = 'x' WHERE id = ?", run_id
    ),
    "a new run": lambda repository, paths, run_id: submit(repository, new_run(99)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_what_has_changed_is_read_again(
    repository: Repository, paths: HomePaths, reader: Reader, change: Callable[[Repository, HomePaths, str], object]
) -> None:
    ids = submit(repository, *(new_run(seed) for seed in range(3)))
    begin(repository, ids[1])
    control.add_tags(paths, [ids[1]], ["old"])
    before = {run.id: run for run in reader.runs(include_archived=True)}
    version = reader.data_version()
    change(repository, paths, ids[1])
    assert reader.data_version() != version
    after = reader.runs(include_archived=True)
    assert after[-1] is before[ids[0]]
    assert after[-3] is before[ids[2]]
    with Reader(paths) as fresh:
        assert after == fresh.runs(include_archived=True)
        assert reader.runs() == fresh.runs()
    assert after != list(reversed(before.values()))


def test_nothing_changed_nothing_read(repository: Repository, reader: Reader) -> None:
    submit(repository, *(new_run(seed) for seed in range(3)))
    first, again = reader.runs(), reader.runs()
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert first is not again, "a caller may sort its list"


def test_a_reader_holds_no_transaction_open(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    (run_id,) = submit(repository)
    reader.runs()
    reader.resolve(run_id)
    reader.series(run_id, "a")
    # folding the write-ahead log back into the file is what a reader in a transaction would prevent
    ((busy, _, _),) = rows_of(paths, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert busy == 0
