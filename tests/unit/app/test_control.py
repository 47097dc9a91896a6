"""`mambalab cancel` and `retry`: requests, and who acts on them."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from storage.home import HomePaths
from workers.jobs.lock import ControllerLock
from workers.jobs.submission import SubmitOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.queries import Reader
    from tests.unit.app.conftest import Call, Lab


@pytest.fixture
def controller(lab: Lab) -> Iterator[None]:
    """Somebody else holds the store's lock, as a living controller does."""
    lock = ControllerLock(lab.paths.controller_lock)
    assert lock.acquire()
    yield
    lock.release()


def test_a_waiting_run_is_cancelled_without_a_controller(
    call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions]
) -> None:
    done = call("cancel", lab.runs[3])
    assert (done.code, done.stdout) == (0, f"{lab.runs[3]}\n")
    assert reader.run(lab.runs[3]).status == "cancelled"
    assert [request.status for request in reader.requests(lab.runs[3])] == ["done"]
    assert started == []


def test_a_run_at_work_is_left_to_a_controller(
    call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions]
) -> None:
    assert call("cancel", lab.single).code == 0
    assert reader.run(lab.single).status == "running"
    assert [request.status for request in reader.requests(lab.single)] == ["pending"]
    assert [options.executor for options in started] == ["ray"]


@pytest.mark.usefixtures("controller")
def test_a_living_controller_is_asked(call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions]) -> None:
    assert call("cancel", lab.runs[3]).code == 0
    assert reader.run(lab.runs[3]).status == "queued"
    assert [request.status for request in reader.requests(lab.runs[3])] == ["pending"]
    assert started == []


def test_several_runs_are_cancelled_only_when_meant(
    call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = call("cancel", lab.runs[3], lab.single)
    assert refused.code == 2
    assert "--yes" in refused.stderr
    monkeypatch.setattr(sys, "stdin", _Terminal("n\n"))
    assert "nothing cancelled" in call("cancel", lab.runs[3], lab.single).stderr
    assert reader.requests(lab.single) == []
    monkeypatch.setattr(sys, "stdin", _Terminal("y\n"))
    assert call("cancel", lab.runs[3], lab.single).code == 0
    assert reader.run(lab.runs[3]).status == "cancelled"
    assert len(reader.requests(lab.single)) == 1


def test_what_has_ended_is_not_cancelled(call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions]) -> None:
    done = call("cancel", lab.runs[0])
    assert (done.code, done.stdout) == (0, "")
    assert "have ended already" in done.stderr
    assert reader.requests(lab.runs[0]) == []


def test_retry_queues_what_ended_badly_and_goes_on_with_what_waits(
    call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions]
) -> None:
    done = call("retry", "demo")
    assert (done.code, done.stdout) == (0, f"{lab.runs[2]}\n{lab.runs[3]}\n")
    assert [request.kind for request in reader.requests(lab.runs[2])] == ["retry"]
    assert reader.requests(lab.runs[3]) == []
    assert [options.executor for options in started] == ["ray"]
    assert call("retry", lab.runs[3], "--executor", "subprocess").code == 0
    assert [options.executor for options in started] == ["ray", "subprocess"]
    nothing = call("retry", lab.runs[0])
    assert nothing.code == 2
    assert "these are completed" in nothing.stderr


def test_a_waiting_run_gets_its_place_without_a_controller(
    call: Call, lab: Lab, reader: Reader, started: list[SubmitOptions]
) -> None:
    done = call("priority", "demo", "5")
    assert (done.code, done.stdout) == (0, f"{lab.runs[3]}\n")
    assert "3 of 4 do not wait" in done.stderr
    assert reader.run(lab.runs[3]).priority == 5
    assert [(request.kind, request.status) for request in reader.requests(lab.runs[3])] == [("priority", "done")]
    assert call("priority", lab.runs[3], "-2").code == 0
    assert reader.run(lab.runs[3]).priority == -2
    assert started == []


@pytest.mark.usefixtures("controller")
def test_a_living_controller_is_asked_for_the_place(call: Call, lab: Lab, reader: Reader) -> None:
    assert call("priority", lab.runs[3], "5").code == 0
    assert reader.run(lab.runs[3]).priority == 0
    (request,) = reader.requests(lab.runs[3])
    assert (request.kind, request.status, request.payload) == ("priority", "pending", {"priority": 5})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["demo", "much"], "got 'much', expected a whole number"),
        (["demo", "9000000000000000000000"], "of at most 1,000,000"),
        (["demo"], "Missing argument"),
        (["--fast", "demo", "1"], "No such option"),
    ],
    ids=["word", "huge", "none", "option"],
)
def test_a_place_that_cannot_be_is_bad_input(call: Call, lab: Lab, reader: Reader, words: list[str], told: str) -> None:
    done = call("priority", *words)
    assert done.code == 2
    assert told.lower() in done.stderr.lower()
    assert reader.requests(lab.runs[3]) == []


def test_what_does_not_wait_has_no_place(call: Call, lab: Lab, reader: Reader) -> None:
    done = call("priority", lab.runs[0], "1")
    assert done.code == 2
    assert "only queued runs have an order to change; these are completed" in done.stderr
    assert reader.requests(lab.runs[0]) == []


def test_down_tells_how_to_go_on_with_what_waits(call: Call, lab: Lab) -> None:
    done = call("down")
    assert done.code == 0
    assert f"stopped run {lab.single}; it is queued" in done.stderr
    assert "2 runs wait in the queue; `mambalab retry REF` goes on with them" in done.stderr


def test_down_without_a_store_makes_none(call: Call, home: HomePaths) -> None:
    assert "nothing to end" in call("down").stderr
    assert not home.root.exists()


def test_an_unknown_executor_is_bad_input(call: Call, lab: Lab, reader: Reader) -> None:
    done = call("retry", lab.runs[2], "--executor", "slurm")
    assert done.code == 2
    assert "expected one of ray, subprocess, inline" in done.stderr
    assert reader.requests(lab.runs[2]) == []


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
