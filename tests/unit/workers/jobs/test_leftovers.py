"""What is read from an attempt's folder once nobody supervises it any more."""

from pathlib import Path

import pytest

from storage.home import AttemptPaths
from workers.jobs.files import write_json
from workers.jobs.sink import SpoolSink
from workers.jobs.supervisor import leftovers


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("completed", 0)])
def test_an_attempt_of_an_ensemble_has_the_exit_code_of_its_result(tmp_path: Path, status: str, code: int) -> None:
    """The last release ends the supervisor of all; who is asked about after that must not lose its exit code."""
    paths = AttemptPaths(tmp_path)
    write_json(paths.spec, {"pack": [str(tmp_path)]})
    write_json(paths.result, {"status": status, "reason": "error"})
    report = leftovers(tmp_path, 0)
    assert (report.state, report.exit_code) == ("exited", code)


def test_a_worker_of_its_own_took_its_exit_code_with_it(tmp_path: Path) -> None:
    paths = AttemptPaths(tmp_path)
    write_json(paths.spec, {"pack": []})
    write_json(paths.result, {"status": "failed", "reason": "error"})
    report = leftovers(tmp_path, 0)
    assert (report.state, report.exit_code) == ("exited", None)


def test_without_a_result_nothing_is_known(tmp_path: Path) -> None:
    write_json(AttemptPaths(tmp_path).spec, {"pack": [str(tmp_path)]})
    report = leftovers(tmp_path, 0)
    assert (report.state, report.exit_code) == ("gone", None)


@pytest.mark.parametrize(("together", "state"), [(2, "running"), (1, "gone")])
def test_what_still_reports_is_waited_for_where_several_train(tmp_path: Path, together: int, state: str) -> None:
    """A rank ends a moment after the worker that started it; the next attempt may go on from what it saved meanwhile."""
    paths = AttemptPaths(tmp_path)
    write_json(paths.spec, {"spec": {"train": {"data_parallel": together}}})
    rank = SpoolSink(paths.spool)
    rank.log(1, {"train/loss": 0.5})
    rank.flush()
    report = leftovers(tmp_path, 0)
    assert report.state == state
    assert b"train/loss" in report.spool
    rank.close()
    assert leftovers(tmp_path, report.cursor).state == "gone"
