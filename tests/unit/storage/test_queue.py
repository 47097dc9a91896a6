"""The life of a run, from the submission to its end, one compare-and-set at a time."""

from __future__ import annotations

import pytest

from storage.control import request
from storage.errors import Conflict, NotFound
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import AttemptEnd, Repository
from storage.status import AttemptStatus, RequestKind
from tests.unit.storage.lab import PROVENANCE, begin, new_ablation, new_run, piece, rows_of, submit


def test_a_submission_is_read_back(repository: Repository, reader: Reader) -> None:
    runs = [
        new_run(
            seed,
            trial_index=index,
            trial_label=label,
            axis_labels={"inner": label},
            axis_values={"inner": label, "size": [1, 2]},
            gpus=0.25,
            cpus=2.0,
            priority=3,
        )
        for seed in (0, 1)
        for index, label in enumerate(("s4d", "s6"))
    ]
    done = repository.submit(ablation=new_ablation(), runs=runs, provenance=PROVENANCE)
    assert done.ablation_id is not None
    ablation = reader.ablation(done.ablation_id)
    assert (ablation.name, ablation.question, ablation.metric, ablation.direction) == (
        "demo",
        "Does it matter?",
        "valid/accuracy",
        "max",
    )
    assert (ablation.axes, ablation.seeds, ablation.secondary) == (("inner",), (0, 1), ("valid/loss",))
    assert (ablation.runs_total, ablation.counts, ablation.progress) == (4, {"queued": 4}, 0.0)
    assert ablation.spec["baseline"] == {"model": {"inner": "s6"}}
    rows = reader.runs(ablation_id=done.ablation_id)
    assert [(row.trial_label, row.seed) for row in rows] == [("s4d", 0), ("s4d", 1), ("s6", 0), ("s6", 1)]
    first = reader.run(done.run_ids[0])
    assert (first.ablation, first.axis_labels, first.axis_values, first.priority) == (
        "demo",
        {"inner": "s4d"},
        {"inner": "s4d", "size": [1, 2]},
        3,
    )
    assert first.config == {"model.d_state": 8, "model.inner": "s6", "seed": 0}
    assert reader.run_spec(done.run_ids[3]) == dict(runs[3].spec)
    origin = reader.provenance(first.id)
    assert origin is not None
    assert (origin.command, origin.git_sha, origin.git_dirty, origin.git_diff, origin.versions) == (
        "mambalab submit demo",
        "abc",
        True,
        "+ a line",
        {"torch": "2.13.0"},
    )
    queued = repository.queued(0.0)[0]
    assert (queued.id, queued.cpus, queued.gpus, queued.spec) == (first.id, 2.0, 0.25, dict(runs[0].spec))


def test_a_submission_is_all_or_nothing(repository: Repository, reader: Reader) -> None:
    broken = new_run(1, spec={"value": object()})
    with pytest.raises(Exception, match="not JSON serializable"):
        repository.submit(ablation=new_ablation(), runs=[new_run(), broken], provenance=PROVENANCE)
    assert (reader.runs(), reader.ablations(), reader.events()) == ([], [], [])


def test_the_queue_is_by_priority_then_age_and_waits_for_retries(repository: Repository) -> None:
    old, urgent, new = submit(repository, new_run(0), new_run(1, priority=5), new_run(2))
    begin(repository, old)
    repository.finish_attempt(old, 1, AttemptEnd(AttemptStatus.LOST, now=10.0, retry_at=20.0))
    assert [run.id for run in repository.queued(19.0)] == [urgent, new]
    assert [run.id for run in repository.queued(20.0)] == [urgent, old, new]
    assert [run.id for run in repository.queued(20.0, 2)] == [urgent, old]
    assert repository.count_waiting() == 3
    assert repository.set_priority(new, 9)
    assert repository.queued(20.0)[0].id == new


def test_only_one_taker_gets_a_run(repository: Repository) -> None:
    (run_id,) = submit(repository)
    assert repository.begin_attempt(run_id, executor="ray", now=1.0) == 1
    assert repository.begin_attempt(run_id, executor="ray", now=1.0) is None
    assert repository.begin_attempt("gone", executor="ray", now=1.0) is None
    assert not repository.cancel_queued(run_id, 2.0)
    assert not repository.requeue(run_id, 2.0)
    assert not repository.set_priority(run_id, 2)


def test_what_a_later_controller_finds(repository: Repository) -> None:
    one, two = submit(repository, new_run(0, gpus=0.5), new_run(1))
    begin(repository, one, now=5.0)
    repository.set_handle(one, 1, '{"actor": "run-1"}')
    repository.record(one, 1, piece(77, (3, {"a": 1.0})))
    begin(repository, two, now=6.0)
    first, second = repository.running()
    assert (first.run_id, first.number, first.executor, first.handle, first.started_at) == (
        one,
        1,
        "inline",
        '{"actor": "run-1"}',
        5.0,
    )
    assert (first.cursor, first.heartbeat_at, first.gpus, first.max_attempts) == (77, 1077.0, 0.5, 3)
    assert (second.handle, second.cursor, second.heartbeat_at, second.spec["seed"]) == (None, 0, None, 1)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("completed", "completed"), ("failed", "failed"), ("cancelled", "cancelled"), ("lost", "failed")],
)
def test_a_run_ends_as_its_attempt_does(repository: Repository, reader: Reader, status: str, expected: str) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    end = AttemptEnd(AttemptStatus(status), now=1060.0, reason="why", error="e", traceback="t\nb", exit_code=9, step=40)
    assert repository.finish_attempt(run_id, 1, end)
    assert not repository.finish_attempt(run_id, 1, end), "a second report of the same end does nothing"
    run, attempt = reader.run(run_id), reader.attempts(run_id)[0]
    assert (run.status, run.reason, run.error, run.finished_at, run.step) == (expected, "why", "e", 1060.0, 40)
    assert run.duration_s == 60.0
    assert (attempt.status, attempt.exit_code, attempt.traceback, attempt.finished_at) == (status, 9, "t\nb", 1060.0)
    assert repository.running() == []
    assert [event.kind for event in reader.events(run_id)] == ["submitted", "started", status]


def test_a_retry_waits_and_then_starts_clean(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    repository.finish_attempt(run_id, 1, AttemptEnd(AttemptStatus.FAILED, now=9.0, error="oom", retry_at=99.0))
    run = reader.run(run_id)
    assert (run.status, run.error, run.finished_at, run.attempt) == ("queued", "oom", None, 1)
    assert begin(repository, run_id, now=100.0) == 2
    run = reader.run(run_id)
    assert (run.status, run.error, run.started_at, run.attempt) == ("running", None, 100.0, 2)
    assert repository.queued(0.0) == []


def test_a_user_may_queue_a_failed_run_again(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    repository.finish_attempt(run_id, 1, AttemptEnd(AttemptStatus.FAILED, now=9.0, error="bug", reason="error"))
    assert repository.requeue(run_id, 10.0)
    run = reader.run(run_id)
    assert (run.status, run.error, run.reason, run.finished_at, run.max_attempts) == ("queued", None, None, None, 4)
    assert not repository.requeue(run_id, 11.0)
    assert repository.cancel_queued(run_id, 12.0)
    assert (reader.run(run_id).status, reader.run(run_id).finished_at) == ("cancelled", 12.0)
    assert repository.requeue(run_id, 13.0)


@pytest.mark.parametrize(("status", "retry_at"), [("running", None), ("completed", 5.0)])
def test_an_end_that_is_none_is_refused(repository: Repository, status: str, retry_at: float | None) -> None:
    (run_id,) = submit(repository)
    begin(repository, run_id)
    with pytest.raises(ValueError, match="cannot end as"):
        repository.finish_attempt(run_id, 1, AttemptEnd(AttemptStatus(status), now=1.0, retry_at=retry_at))


def test_requests_are_settled_once(repository: Repository, paths: HomePaths, reader: Reader) -> None:
    one, two = submit(repository, new_run(0), new_run(1))
    numbers = request(paths, RequestKind.CANCEL, [one, two])
    (third,) = request(paths, RequestKind.PRIORITY, [one], {"priority": 4})
    pending = repository.pending_requests()
    assert [(row.id, row.kind, row.run_id, row.run_status) for row in pending] == [
        (numbers[0], "cancel", one, "queued"),
        (numbers[1], "cancel", two, "queued"),
        (third, "priority", one, "queued"),
    ]
    assert pending[2].payload == {"priority": 4}
    repository.settle_request(numbers[0], done=False, outcome="it has completed", now=50.0)
    repository.settle_request(numbers[0], done=True, outcome="again", now=60.0)
    assert [row.id for row in repository.pending_requests()] == [numbers[1], third]
    settled = reader.requests(one)[0]
    assert (settled.status, settled.outcome, settled.settled_at) == ("refused", "it has completed", 50.0)


def test_events_are_read_from_where_one_left_off(repository: Repository, reader: Reader) -> None:
    one, two = submit(repository, new_run(0), new_run(1))
    begin(repository, one)
    every = reader.events()
    assert [(event.kind, event.run_id) for event in every] == [("submitted", one), ("submitted", two), ("started", one)]
    assert reader.events(after=every[1].id) == every[2:]
    assert reader.events(limit=1) == every[:1]
    assert [event.kind for event in reader.events(two)] == ["submitted"]


def test_the_queue_is_found_by_its_index(paths: HomePaths) -> None:
    for query in (
        "SELECT id FROM run WHERE status = 'queued' ORDER BY priority DESC, num",
        "SELECT status, COUNT(*) FROM run WHERE NOT archived GROUP BY status",
    ):
        plan = " ".join(str(row[3]) for row in rows_of(paths, f"EXPLAIN QUERY PLAN {query}"))
        assert "USING" in plan
        assert "run_queue" in plan
        assert "TEMP B-TREE" not in plan


def test_further_seeds_join_their_ablation(repository: Repository, reader: Reader) -> None:
    ablation_id = repository.submit(
        ablation=new_ablation(), runs=[new_run(0), new_run(1)], provenance=PROVENANCE
    ).ablation_id
    assert ablation_id is not None
    done = repository.extend(ablation_id, [new_run(4), new_run(2)], PROVENANCE)
    assert done.ablation_id == ablation_id
    ablation = reader.ablation(ablation_id)
    assert (ablation.seeds, ablation.spec["seeds"], ablation.runs_total) == ((0, 1, 4, 2), [0, 1, 4, 2], 4)
    assert ablation.spec["baseline"] == {"model": {"inner": "s6"}}
    assert [run.id for run in repository.queued(0.0)][2:] == list(done.run_ids)
    event = reader.events()[-1]
    assert (event.kind, event.ablation_id, event.data) == ("extended", ablation_id, {"runs": 2, "seeds": [4, 2]})


def test_a_seed_that_is_there_is_refused_and_nothing_is_written(repository: Repository, reader: Reader) -> None:
    ablation_id = repository.submit(
        ablation=new_ablation(), runs=[new_run(0), new_run(1)], provenance=PROVENANCE
    ).ablation_id
    assert ablation_id is not None
    with pytest.raises(Conflict, match="with seed 1 is run "):
        repository.extend(ablation_id, [new_run(2), new_run(1)], PROVENANCE)
    with pytest.raises(NotFound, match="no ablation"):
        repository.extend("none", [new_run(2)], PROVENANCE)
    assert (reader.ablation(ablation_id).seeds, len(reader.runs())) == ((0, 1), 2)


def test_a_run_may_bring_its_id_and_says_what_it_was_made_from(repository: Repository, reader: Reader) -> None:
    (run_id,) = submit(repository, new_run(id="made-before", origin={"from_run": "abc", "from_step": 5}))
    assert run_id == "made-before"
    assert reader.events(run_id)[0].data == {"from_run": "abc", "from_step": 5}
