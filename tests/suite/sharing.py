"""A pytest plugin with which processes share one suite by its files: each takes the next that nobody has begun.

Every process collects the whole suite, and a file that any of them collected is run by exactly one. Fixtures of a file, a
folder's session fixtures and the order within a file are those of a run in one process. `tests.suite.run` starts them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pytest

FOLDER = "MAMBALAB_SUITE_FOLDER"
ENDED = "ended.jsonl"
TOGETHER = {
    "tests/chaos": "tests/chaos, tests/e2e",  # real clusters on this machine: one at a time, and one head for all that share it
    "tests/e2e": "tests/chaos, tests/e2e",
    "tests/snapshot": "tests/snapshot",  # whether a picture is one that no test takes is seen by who runs all of them
}
FIRST = ("tests/chaos, tests/e2e", "tests/unit/workers/training", "tests/snapshot", "tests/unit/tui")
"""The longest, so that none of them is begun when all else has ended."""


def unit(nodeid: str) -> str:
    """Return the name of what a test is run with: its file, or some folders that stay in one process."""
    file = PurePosixPath(nodeid.partition("::")[0])
    return next((TOGETHER[str(folder)] for folder in file.parents if str(folder) in TOGETHER), str(file))


def in_order(names: Sequence[str]) -> list[str]:
    """Return the units' names, the long ones first and each as it was collected otherwise."""
    return sorted(
        names, key=lambda name: next((place for place, long in enumerate(FIRST) if name.startswith(long)), len(FIRST))
    )


def claim(folder: Path, name: str) -> bool:
    """Return whether the unit is now ours: nobody had begun it, and it counts as begun."""
    try:
        (folder / f"{name.replace('/', '|')}.begun").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def begun(folder: Path) -> set[str]:
    """Return the names of the units that somebody has begun."""
    return {path.stem.replace("|", "/") for path in folder.glob("*.begun")}


class Sharing:
    """The hooks of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts, self.since = folder, Counter[str](), time.monotonic()

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run what nobody else does; a suite that could not be collected, or is not to run, is left to pytest."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        mine = self.claimed(session.items)
        name, item = next(mine, ("", None))
        while item is not None:
            following, other = next(mine, ("", None))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=other)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            if following != name:
                self.end(name)
            name, item = following, other
        return True

    def claimed(self, items: Sequence[pytest.Item]) -> Iterator[tuple[str, pytest.Item]]:
        """Yield the tests of one unit after another; the next is claimed as the last test of one begins."""
        units: dict[str, list[pytest.Item]] = {}
        for item in items:
            units.setdefault(unit(item.nodeid), []).append(item)
        for name in in_order(list(units)):
            if claim(self.folder, name):
                yield from ((name, item) for item in units[name])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the outcome of a test, and what fails before or after it, as pytest does."""
        if report.when == "call" or report.skipped:
            self.counts[report.outcome] += 1
        elif report.failed:
            self.counts["errors"] += 1

    def end(self, name: str) -> None:
        """Say that all of a unit has run, and what became of it."""
        line = json.dumps({"unit": name, "seconds": time.monotonic() - self.since, "counts": self.counts})
        with (self.folder / ENDED).open("a") as file:  # a short line at the end of a file: written whole
            file.write(f"{line}\n")
        self.counts, self.since = Counter(), time.monotonic()


def pytest_configure(config: pytest.Config) -> None:
    """Join the suite whose folder the environment names."""
    config.pluginmanager.register(Sharing(Path(os.environ[FOLDER])))


def pytest_collection_finish() -> None:
    """Let torch use one thread, if what was collected has imported it: the other cores have processes of their own.

    Not by the environment: what the tests start would inherit it.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
