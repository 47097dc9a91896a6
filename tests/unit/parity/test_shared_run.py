"""The runner of the GPU suite, on a suite without a GPU: nothing that fails, dies or does not run is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import run
from tests.parity.run import Outcome, Verdict, report, run_shared

SUITE = """
import os
import pytest
pytestmark = pytest.mark.gpu

@pytest.mark.parametrize("number", range(8))
def test_good(number): pass
def test_bad(): assert 1 == 2
def test_dies(): os._exit(9)
def test_loses_the_device(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
@pytest.mark.skip
def test_skipped(): pass
def test_broken_teardown(request): request.addfinalizer(lambda: 1 / 0)
"""


def write(folder: Path, text: str) -> str:
    path = folder / "test_suite.py"
    path.write_text(text)
    return str(path)


def test_every_test_runs_once_and_every_outcome_is_counted(tmp_path: Path) -> None:
    outcome = run_shared([write(tmp_path, SUITE)], "gpu", processes=2, limit_s=60)
    found = {name.rpartition("::")[2]: test.outcome for name, test in outcome.tests.items()}
    assert found == {f"test_good[{number}]": "passed" for number in range(8)} | {
        "test_bad": "failed",
        "test_dies": "died",
        "test_loses_the_device": "failed",
        "test_skipped": "skipped",
        "test_broken_teardown": "failed",
    }
    assert outcome.total == 13
    assert not outcome.passed
    text = report(outcome)
    assert "assert 1 == 2" in text
    assert "8 passed, 3 failed, 1 died, 1 skipped, 0 not run, of 13" in text


def test_a_good_suite_passes(tmp_path: Path) -> None:
    good = "import pytest\n@pytest.mark.gpu\ndef test_good(): pass\ndef test_unmarked(): assert False\n"
    outcome = run_shared([write(tmp_path, good)], "gpu", processes=2, limit_s=60)
    assert outcome.passed
    assert len(outcome.tests) == 1


def test_nothing_begins_once_the_time_is_up(tmp_path: Path) -> None:
    outcome = run_shared([write(tmp_path, SUITE)], "gpu", processes=1, limit_s=-1)
    assert outcome.tests == {}
    assert not outcome.passed
    assert "13 not run, of 13" in report(outcome)


def test_a_suite_that_cannot_be_collected_says_why(tmp_path: Path) -> None:
    outcome = run_shared([write(tmp_path, "import nowhere_to_be_found\n")], "gpu", processes=2, limit_s=60)
    assert not outcome.passed
    assert "nowhere_to_be_found" in report(outcome)


@pytest.mark.parametrize(
    ("outcomes", "total", "trouble", "passed"),
    [
        (["passed", "passed"], 2, [], True),
        (["passed"], 2, [], False),
        (["passed", "skipped"], 2, [], False),
        (["passed", "died"], 2, [], False),
        ([], 0, [], False),
        (["passed"], 1, ["usage"], False),
    ],
)
def test_only_a_whole_suite_that_ran_has_passed(
    outcomes: list[str], total: int, trouble: list[str], passed: bool
) -> None:
    tests = {str(place): Verdict(outcome) for place, outcome in enumerate(outcomes)}
    assert Outcome(tests, total, trouble).passed is passed


def test_without_a_gpu_the_command_refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
