"""A pytest plugin with which several processes share one suite: each takes the next test that nobody has begun.

A kernel that two of them need is compiled by one; the other waits and reads it from Triton's cache. What happens is
appended to a file as it happens, so that a process that dies loses nothing. `tests.parity.run` starts the processes.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FOLDER, DEADLINE = "MAMBALAB_SHARED_SUITE", "MAMBALAB_SHARED_DEADLINE"
EVENTS, NEXT, TOTAL = "events.jsonl", "next", "total"
LOST_DEVICE = ("CUDA error", "AcceleratorError", "illegal memory access", "launch failure")
"""After one of these a process can do no more on the GPU: it leaves the rest to the others."""


class Suite:
    """The folder through which the processes speak."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self) -> int:
        """Return the place of the next test that nobody has begun, and count it as begun."""
        with _locked(self.folder / f"{NEXT}.lock"):
            path = self.folder / NEXT
            place = int(path.read_text()) if path.exists() else 0
            path.write_text(str(place + 1))
        return place

    def append(self, **event: Any) -> None:
        """Add a line to the events."""
        with _locked(self.folder / f"{EVENTS}.lock"), (self.folder / EVENTS).open("a") as file:
            file.write(json.dumps(event) + "\n")


class Sharing:
    """The hooks of one process."""

    def __init__(self, suite: Suite, deadline: float) -> None:
        self.suite, self.deadline, self.lost_device = suite, deadline, False

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run tests until none is left, the time is up, or the GPU is lost to this process."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        (self.suite.folder / TOTAL).write_text(str(len(session.items)))
        while time.time() < self.deadline and not self.lost_device:
            place = self.suite.claim()
            if place >= len(session.items):
                break
            item = session.items[place]
            self.suite.append(test=item.nodeid, phase="begun")
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a phase: setup, call or teardown."""
        text = "" if report.passed else report.longreprtext
        self.lost_device = self.lost_device or any(sign in text for sign in LOST_DEVICE)
        self.suite.append(
            test=report.nodeid, phase=report.when, outcome=report.outcome, seconds=report.duration, text=text
        )


def pytest_configure(config: pytest.Config) -> None:
    """Join the suite that the environment names."""
    folder = Path(os.environ[FOLDER])
    config.pluginmanager.register(Sharing(Suite(folder), float(os.environ[DEADLINE])))
    _compile_once(folder)


def _compile_once(folder: Path) -> None:
    """Let one process at a time compile a kernel's specialisation: those behind it find it in the cache."""
    try:
        from triton import compiler
    except ImportError:
        return
    original = compiler.compile

    @functools.wraps(original)
    def compile_locked(src: Any, target: Any = None, options: Any = None, **keywords: Any) -> Any:
        identity = f"{src.hash()} {sorted((options or {}).items(), key=str)}"
        name = hashlib.sha256(identity.encode()).hexdigest()
        with _locked(folder / f"{name}.lock"):
            return original(src, target=target, options=options, **keywords)

    compiler.compile = compile_locked


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
