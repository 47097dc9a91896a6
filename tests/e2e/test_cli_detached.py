"""Runs outlive the command that submitted them: the controller with worker processes, through the console script."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli import TINY, Folder
from tests.e2e.jobs_lab import eventually

LONG = TINY.replace("steps = 4", "steps = 1000000").replace("seeds = [0, 1]", "seeds = [0]")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder whose controller, where one was started, ends with the test."""
    made = Folder(tmp_path)
    (tmp_path / "long.toml").write_text(LONG.replace("log_every = 1", "log_every = 100"))
    yield made
    made.call("down")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A suite in the background of a shell hands on that SIGINT is ignored; what is started from a terminal can be interrupted."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def line_with(stream: Any, words: str) -> str:
    """Read a stream up to the line that holds some words, and return it."""
    read = []
    for line in stream:
        read.append(line)
        if words in line:
            return str(line)
    raise AssertionError(f"{words!r} never came in {read}")


@pytest.mark.usefixtures("interruptible")
def test_runs_outlive_who_follows_them_and_end_when_cancelled(folder: Folder) -> None:
    """Ctrl-c ends the following alone; `cancel` ends the runs, `retry` queues one again, `logs -f` ends with its run."""
    with folder.started("submit", "long.toml", "--executor", "subprocess", "--follow") as following:
        ablation_id = line_with(following.stdout, "").strip()
        line_with(following.stderr, "running")
        os.killpg(following.pid, signal.SIGINT)
        _, told = following.communicate(timeout=60)
    assert following.returncode == 130, told
    assert "the runs go on" in told
    assert f"mambalab cancel {ablation_id}" in told

    running = folder.json("ls", "--status", "running")
    assert running
    run_id = running[0]["id"]
    with folder.started("logs", "-f", run_id) as log:
        folder.call("cancel", ablation_id, "--yes")
        _, told = log.communicate(timeout=60)
    assert log.returncode == 0, told
    assert f"{run_id} cancelled" in told
    # The controller settles a cancellation once it has stored the run's end
    eventually(lambda: folder.json("show", run_id)["requests"][0]["status"] == "done", "the request's end")
