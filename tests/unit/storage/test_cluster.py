"""The row that tells of the cluster: it round-trips, it is overwritten, and readers say how things are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.cluster import SILENT_S, ClusterRow, Holding, Machine, Phase, Standing, Waiting, standing
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from tests.unit.storage.lab import rows_of, submit

CONTROLLER = {"pid": 7, "host": "here", "executor": "ray", "address": "", "cluster": {"address": "127.0.0.1:1"}}
ROW = ClusterRow(
    100.0,
    CONTROLLER,
    Phase.WORKING,
    "",
    (Machine("n1", "here", 4.0, 2, (Holding("a", 1, 1.0, 0.5, (1,)), Holding("b", 2, 2.0, 0.25, (1,)))),),
    (Waiting("c", "asks for 8 CPUs, 1 free"), Waiting("d", "pauses", 120.0)),
    9,
)


def test_what_is_written_is_read_and_overwritten_in_place(paths: HomePaths, repository: Repository) -> None:
    with Reader(paths) as reader:
        assert reader.cluster() is None
        repository.set_cluster(replace(ROW, told="the Ray head does not answer"))
        repository.set_cluster(ROW)
        assert reader.cluster() == ROW
    assert rows_of(paths, "SELECT COUNT(*) FROM cluster") == [(1,)]


def test_a_machine_adds_up_who_holds_it() -> None:
    (machine,) = ROW.machines
    assert (machine.cpus_held, machine.gpus_held) == (3.0, 0.75)
    assert [holding.run_id for holding in machine.on_device(1)] == ["a", "b"]
    assert machine.on_device(0) == ()


def test_the_address_is_the_joined_cluster_s_or_the_own_head_s() -> None:
    assert ROW.address == "127.0.0.1:1"
    assert replace(ROW, controller={**CONTROLLER, "address": "head:6379"}).address == "head:6379"
    assert replace(ROW, controller={"pid": 1}).address == ""


def test_the_head_of_the_queue_holds_those_that_pause_too(repository: Repository) -> None:
    runs = [submit(repository)[0] for _ in range(3)]
    repository.set_priority(runs[2], 5)
    head = repository.queue_head(2)
    assert [(row[0], row[2]) for row in head] == [(runs[2], 5), (runs[0], 0)]


@pytest.mark.parametrize(
    ("row", "pid", "later", "expected", "words"),
    [
        (None, None, 0.0, Standing.NONE, "no controller has worked"),
        (None, 7, 0.0, Standing.STARTING, "starts"),
        (ROW, 8, 0.0, Standing.STARTING, "starts"),
        (replace(ROW, phase=Phase.STARTING, told="starts a Ray head"), 7, 0.0, Standing.STARTING, "starts a Ray head"),
        (ROW, 7, 1.0, Standing.LIVE, "at work"),
        (ROW, 7, SILENT_S + 1, Standing.SILENT, "says nothing"),
        (replace(ROW, told="the Ray head does not answer"), 7, 1.0, Standing.DOWN, "the Ray head does not answer"),
        (replace(ROW, phase=Phase.ENDED, told="it was asked to"), 7, 1.0, Standing.ENDED, "ends: it was asked to"),
        (
            replace(ROW, phase=Phase.ENDED, told="it was asked to"),
            None,
            9e9,
            Standing.ENDED,
            "has ended: it was asked to",
        ),
        (ROW, None, 1.0, Standing.VANISHED, "process 7"),
    ],
    ids=lambda value: str(value) if isinstance(value, Standing) else "",
)
def test_readers_can_tell_how_things_are(
    row: ClusterRow | None, pid: int | None, later: float, expected: Standing, words: str
) -> None:
    kind, told = standing(row, pid, 100.0 + later)
    assert kind is expected
    assert words in told
