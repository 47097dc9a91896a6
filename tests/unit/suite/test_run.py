"""The runner of the suite, on small suites: every file runs once, and nothing that fails, dies or does not run is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite.run import Part, Suite, run
from tests.suite.sharing import in_order, unit

GOOD = "import pytest\n@pytest.mark.parametrize('number', range(3))\ndef test_good(number): pass\n"


def suite_of(folder: Path, files: dict[str, str], *, processes: int = 2) -> Suite:
    (folder / "suite").mkdir()
    (folder / "run").mkdir()
    for name, text in files.items():
        (folder / "suite" / f"test_{name}.py").write_text(text)
    part = Part("all", (str(folder / "suite"),))
    return run([[part]] * processes, folder / "run")


def test_each_file_runs_once_though_two_processes_collect_it(tmp_path: Path) -> None:
    told = tmp_path / "told"
    text = f"def test_once():\n with open({str(told)!r}, 'a') as file: file.write(__file__ + chr(10))\n"
    suite = suite_of(tmp_path, {str(number): text for number in range(5)})
    assert suite.passed, suite.report()
    assert sorted(told.read_text().split()) == sorted(str(path) for path in (tmp_path / "suite").glob("*.py"))
    assert suite.report().endswith("5 passed")


def test_every_outcome_is_counted_and_a_failure_is_printed(tmp_path: Path) -> None:
    bad = """
import pytest
def test_bad(): assert 1 == 2
@pytest.mark.skip
def test_skipped(): pass
def test_broken_teardown(request): request.addfinalizer(lambda: 1 / 0)
"""
    suite = suite_of(tmp_path, {"good": GOOD, "bad": bad})
    assert not suite.passed
    assert "assert 1 == 2" in suite.report()
    assert suite.report().endswith("1 failed, 1 errors, 4 passed, 1 skipped")


def test_what_a_process_leaves_when_it_dies_is_named(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"good": GOOD, "dies": "import os\ndef test_dies(): os._exit(0)\n"})
    assert not suite.passed  # though the process says that all is well
    assert any(name.endswith("test_dies.py") for name in suite.unfinished())
    assert "begun and not ended" in suite.report()


def test_a_suite_that_cannot_be_collected_fails_and_says_why(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"good": GOOD, "lost": "import nowhere_to_be_found\n"})
    assert not suite.passed
    assert "nowhere_to_be_found" in suite.report()


def test_nothing_to_run_is_no_success(tmp_path: Path) -> None:
    assert not suite_of(tmp_path, {}, processes=1).passed


def test_a_files_fixtures_live_as_long_as_in_one_process(tmp_path: Path) -> None:
    shared = """
import pytest
MADE = []
@pytest.fixture(scope="module")
def made(): MADE.append(1); yield MADE; MADE.append(2)
def test_one(made): assert made == [1]
def test_two(made): assert made == [1]
"""
    suite = suite_of(tmp_path, {"shared": shared, "good": GOOD}, processes=1)
    assert suite.passed, suite.report()


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/unit/app/test_ls.py::test_one[a::b]", "tests/unit/app/test_ls.py"),
        ("tests/e2e/test_jobs_ray.py::test_one", "tests/chaos, tests/e2e"),
        ("tests/chaos/test_kills.py::test_one", "tests/chaos, tests/e2e"),
        ("tests/snapshot/test_lens.py::test_one", "tests/snapshot"),
    ],
)
def test_what_stays_in_one_process(nodeid: str, name: str) -> None:
    assert unit(nodeid) == name


def test_the_long_ones_are_begun_first() -> None:
    names = ["tests/docs/test_a.py", "tests/unit/tui/test_a.py", "tests/chaos, tests/e2e", "tests/unit/tui/test_b.py"]
    assert in_order(names) == [names[2], names[1], names[3], names[0]]
