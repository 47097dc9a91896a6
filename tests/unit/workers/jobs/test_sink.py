"""The sink: `log` never waits, and what was flushed survives anything."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workers.jobs import sink as module
from workers.jobs.errors import SpoolError, SpoolTakenError
from workers.jobs.launch import with_this_code
from workers.jobs.sink import SpoolSink
from workers.jobs.spool import parse, read_from


def steps(path: Path) -> list[int]:
    data, _ = read_from(path, 0)
    batch = parse(data)
    assert batch.damaged == []
    return [line.step for line in batch.metrics]


def test_flush_returns_once_everything_is_in_the_file(tmp_path: Path) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    for step in range(1, 1001):
        sink.log(step, {"train/loss": 1 / step})
    sink.flush()
    assert steps(tmp_path / "spool.jsonl") == list(range(1, 1001))
    sink.close()


def test_log_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    hangs = threading.Event()
    write = os.write

    def slow_write(descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "spool":
            hangs.set()
            goes_on.wait()
        return write(descriptor, data)

    monkeypatch.setattr("workers.jobs.sink.os.write", slow_write)
    sink = SpoolSink(tmp_path / "spool.jsonl", patience_s=0.05)
    assert hangs.wait(10)
    slowest = 0.0
    for step in range(1, 2001):
        began = time.perf_counter()
        sink.log(step, {"train/loss": 1.0})
        slowest = max(slowest, time.perf_counter() - began)
    assert steps(tmp_path / "spool.jsonl") == []
    assert slowest < 2.0  # the disk hangs for good: any waiting would have no end
    with pytest.raises(SpoolError, match="the spool cannot be written"):
        sink.flush()
    goes_on.set()
    sink.close()
    assert steps(tmp_path / "spool.jsonl") == list(range(1, 2001))


def test_a_full_disk_loses_nothing_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes fail, or take only the start of what they are given, for a while."""
    write = os.write
    attempts = iter(range(10_000))

    def full(descriptor: int, data: bytes) -> int:
        turn = next(attempts)
        if turn < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: 1 + turn % 17])

    monkeypatch.setattr("workers.jobs.sink.os.write", full)
    sink = SpoolSink(tmp_path / "spool.jsonl")
    for step in range(1, 51):
        sink.log(step, {"train/loss": 1.0})
    sink.close()
    assert steps(tmp_path / "spool.jsonl") == list(range(1, 51))


def test_a_disk_that_stays_full_ends_the_run_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workers.jobs.sink.os.write", full)
    sink = SpoolSink(tmp_path / "spool.jsonl", patience_s=0.2)
    sink.log(1, {"train/loss": 1.0})
    with pytest.raises(SpoolError, match=r"No space left.*Free space"):
        sink.close()


def test_a_value_that_is_no_number_raises_at_the_next_call(tmp_path: Path) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    sink.log(1, {"train/loss": 1.0})
    sink.log(2, {"train/loss": object()})  # type: ignore[dict-item]
    with pytest.raises(SpoolError, match="not a number"):
        sink.flush()
    with pytest.raises(SpoolError):
        sink.log(3, {"train/loss": 1.0})
    with pytest.raises(SpoolError):
        sink.close()


def test_a_spool_has_one_writer(tmp_path: Path) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    with pytest.raises(SpoolTakenError):
        SpoolSink(tmp_path / "spool.jsonl")
    sink.close()
    SpoolSink(tmp_path / "spool.jsonl").close()


def test_a_silent_worker_still_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_EVERY_S", 0.0)
    sink = SpoolSink(tmp_path / "spool.jsonl")
    deadline = time.monotonic() + 20
    while (tmp_path / "spool.jsonl").read_bytes().count(b"heartbeat") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sink.close()


VICTIM = """
import sys
from pathlib import Path
from workers.jobs.sink import SpoolSink
sink = SpoolSink(Path(sys.argv[1]))
for step in range(1, 501):
    sink.log(step, {"train/loss": 1.0})
sink.flush()
print("flushed", flush=True)
step = 500
while True:
    step += 1
    sink.log(step, {"train/loss": 1.0})
    if step % 50 == 0:
        sink.flush()
"""


def test_sigkill_loses_nothing_that_was_flushed_and_tears_no_row(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(path)], stdout=subprocess.PIPE, env=with_this_code(os.environ)
    )
    assert victim.stdout is not None
    with victim.stdout:
        assert victim.stdout.readline() == b"flushed\n"
        deadline = time.monotonic() + 20
        while len(steps(path)) < 2000:  # kill it in the middle of its work
            assert time.monotonic() < deadline
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    found = steps(path)
    assert len(found) >= 2000
    assert found == list(range(1, len(found) + 1))


def test_a_closed_sink_takes_nothing_more_from_beside(tmp_path: Path) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    sink.log(1, {"train/loss": 1.0})
    sink.log_beside(1, {"system/cpu_percent": 1.0})
    sink.close()
    sink.log_beside(1, {"system/cpu_percent": 2.0})
    assert not sink._waiting
    assert steps(tmp_path / "spool.jsonl") == [1, 1]
