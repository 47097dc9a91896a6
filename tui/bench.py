"""Measures the terminal UI as a user meets it: a cold process in a pty of 160 x 50, keys in, painted text out.

`measure_ui(folder)` makes seeded stores below a folder, runs every measurement and returns seconds by name. Times are
from the start of the process, or from a key, to the moment when the text that proves the painting has been written.
Reads what the terminal gets, so nothing in the UI knows that it is measured.
"""

from __future__ import annotations

import fcntl
import math
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.home import HomePaths
from storage.queries import Reader
from tui.theme import DARK

COLUMNS, LINES = 160, 50
LIMIT_S = 60.0
KEYS_TIMED = 150
QUIET_S = 0.25
WRITERS = 32
RUN = "import sys; from storage.home import HomePaths; from tui.app import run_ui; run_ui(HomePaths(sys.argv[1]))"
INGEST = """
import sys, time
from storage.home import HomePaths
from storage.records import RecordBatch
from storage.repository import Repository
with Repository(HomePaths(sys.argv[1])) as store:
    at_work = []
    for run in store.queued(time.time(), int(sys.argv[2])):
        at_work.append((run.id, store.begin_attempt(run.id, executor="bench", now=time.time())))
    step = 0
    print("ready", flush=True)
    while True:
        began = time.time()
        names = [f"train/metric_{index}" for index in range(10)]
        rows = [(began, step + index, dict.fromkeys(names, float(index))) for index in range(1, 11)]
        step += 10
        store.record_many([(run, number, RecordBatch(rows, cursor=step, heartbeat_at=began)) for run, number in at_work])
        time.sleep(max(0.0, 0.1 - (time.time() - began)))
"""


class Terminal:
    """A program in a pty, and all that it has written so far."""

    def __init__(self, home: Path) -> None:
        self.config = tempfile.TemporaryDirectory(prefix="mambalab-bench-")  # as for a user who has no settings yet
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor",
                       "XDG_CONFIG_HOME": self.config.name}  # fmt: skip
        environment.pop("NO_COLOR", None)
        self.began = time.perf_counter()
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-c", RUN, str(home)], environment)  # noqa: S606 - ourselves
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.written = b""

    def read(self, timeout_s: float) -> bool:
        """Take what is written within a time; False where nothing is."""
        if not select.select([self.handle], [], [], timeout_s)[0]:
            return False
        try:
            self.written += os.read(self.handle, 1 << 20)
        except OSError as error:  # the other end is gone
            raise RuntimeError(f"the terminal UI ended early; its last words: {self.written[-300:]!r}") from error
        return True

    def until(self, proof: Callable[[bytes], bool]) -> float:
        """Return the moment at which what has been written proves something. Raises TimeoutError."""
        deadline = time.perf_counter() + LIMIT_S
        while not proof(self.written):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"not painted within {LIMIT_S:g} s; the last bytes: {self.written[-300:]!r}")
            self.read(0.5)
        return time.perf_counter()

    def settled(self, proof: Callable[[bytes], bool], quiet_s: float = QUIET_S) -> float:
        """Return the moment of the last byte before a quiet while, after the proof."""
        moment = self.until(proof)
        while self.read(quiet_s):
            moment = time.perf_counter()
        return moment

    def rest(self, seconds: float) -> None:
        """Let a while pass, taking what is written."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)

    def press(self, keys: str) -> float:
        """Send keys, forget what was written before, and return the moment."""
        while self.read(0.0):
            pass
        self.written = b""
        moment = time.perf_counter()
        os.write(self.handle, keys.encode())
        return moment

    def close(self) -> int:
        """End the program; return its largest size in memory, in bytes."""
        peak = _peak_memory(self.pid)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)
        self.config.cleanup()
        return peak


def _peak_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


@contextmanager
def opened(home: Path) -> Iterator[Terminal]:
    """Run the UI on a store; it is ended when the block is left."""
    terminal = Terminal(home)
    try:
        yield terminal
    finally:
        terminal.close()


def contains(*texts: str) -> Callable[[bytes], bool]:
    """Return the proof that all of these texts were written."""
    wanted = [text.encode() for text in texts]
    return lambda written: all(text in written for text in wanted)


def nine_charts(written: bytes) -> bool:
    """Prove that nine charts are drawn: each has one corner of its axes, and none of them says that it has no points."""
    return written[written.rfind(b"no points yet") + 1 :].count("└".encode()) >= 9


def sample_store(folder: Path, name: str, *, runs: int, points: int, keys: int = 10) -> Path:
    """Return a seeded store below the folder, made at the first call."""
    home = folder / f"{name}-{runs}x{points}x{keys}"
    if not (home / "lab.db").exists():
        from storage.sample import fill_store  # SQLAlchemy, which the terminal UI itself never loads

        fill_store(HomePaths(home), runs=runs, points=points, keys=keys, now=time.time())
    return home


def long_store(folder: Path, points: int) -> Path:
    """Return a store with one run of so many steps, nine metrics at each, made at the first call."""
    home = folder / f"long-{points}"
    if not (home / "lab.db").exists():
        from storage.records import AttemptEnd, NewProvenance, NewRun, RecordBatch
        from storage.repository import Repository
        from storage.status import AttemptStatus

        names = sample_metrics()
        with Repository(HomePaths(home)) as store:
            run = NewRun("long", {"seed": 0}, "0", total_steps=points)
            origin = NewProvenance(command="mambalab bench ui", directory="/", hostname="bench", python="3")
            run_id = store.submit(ablation=None, runs=[run], provenance=origin).run_ids[0]
            number = store.begin_attempt(run_id, executor="bench", now=time.time())
            assert number is not None
            for first in range(0, points, 20_000):
                steps = range(first + 1, min(first + 20_000, points) + 1)
                rows = [
                    (float(step), step, {name: math.sin(step / 5000) + step % 7 for name in names}) for step in steps
                ]
                store.record(run_id, number, RecordBatch(rows, cursor=first + 1))
            store.finish_attempt(run_id, number, AttemptEnd(AttemptStatus.COMPLETED, now=time.time(), step=points))
    return home


def sample_metrics() -> tuple[str, ...]:
    """Return the names of nine metrics."""
    from storage.sample import METRICS

    return METRICS[:9]


def newest(home: Path, count: int) -> list[str]:
    """Return what the first rows of the list show of their ids."""
    with Reader(HomePaths(home)) as reader:
        return [run.id[:5] for run in reader.runs(limit=count)]


def first_paint(home: Path, times: int = 5) -> list[float]:
    """Return the seconds from the start of the process to the first row of the list."""
    row = newest(home, 1)[0]
    found = []
    for _ in range(times):
        with opened(home) as terminal:
            found.append(terminal.until(contains(row)) - terminal.began)
    return found


def sort_and_filter(home: Path) -> dict[str, float]:
    """Return the seconds from a key to the painted answer, over the whole list."""
    total = len(newest(home, 1_000_000))
    times: dict[str, list[float]] = {"sort": [], "filter_words": [], "filter_config": []}
    with opened(home) as terminal:
        terminal.settled(contains(newest(home, 1)[0]))
        for _ in range(5):
            began = terminal.press("s")
            times["sort"].append(terminal.until(lambda out: "▼".encode() in out or "▲".encode() in out) - began)
        anything = contains()
        terminal.press("/")
        terminal.settled(anything)
        for name, text in (("filter_words", "s6"), ("filter_config", "d_state>8")):
            terminal.press(text[:-1])
            terminal.settled(anything)
            for _ in range(3):
                began = terminal.press(text[-1])
                times[name].append(terminal.until(contains(f" of {total} runs")) - began)
                terminal.press("\x7f")
                terminal.settled(anything)
            terminal.press("\x15")
            terminal.settled(anything)
    return {name: statistics.median(values) for name, values in times.items()}


def one_run(home: Path) -> dict[str, float]:
    """Return the seconds until the nine charts of one long run are drawn."""
    with opened(home) as terminal:
        terminal.until(contains(newest(home, 1)[0]))
        began = terminal.press("\r")
        drawn = terminal.until(nine_charts)
        return {
            "from_start": drawn - terminal.began,
            "from_key": drawn - began,
            "peak_bytes": _peak_memory(terminal.pid),
        }


def many_runs(home: Path, count: int) -> dict[str, float]:
    """Return the seconds until the nine charts of many runs over one another are drawn."""
    with opened(home) as terminal:
        terminal.settled(contains(newest(home, 1)[0]))
        terminal.press(" " * count)
        terminal.settled(contains(f"{count} marked"))
        began = terminal.press("c")
        drawn = terminal.settled(nine_charts, quiet_s=0.6)  # longer than the pause between two pieces of a long read
        return {"from_key": drawn - began, "peak_bytes": _peak_memory(terminal.pid)}


def keys_while_ingesting(home: Path) -> dict[str, float]:
    """Return percentiles of the seconds from a key to the cursor on the next row, while 32 runs report ten times a second."""
    ids = newest(home, KEYS_TIMED + 40)
    cursor = ";".join(str(int(DARK.cursor[index : index + 2], 16)) for index in (1, 3, 5))
    writer = subprocess.Popen([sys.executable, "-c", INGEST, str(home), str(WRITERS)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        with opened(home) as terminal:
            terminal.until(contains(ids[0]))
            terminal.rest(2.0)  # until all runs are read
            times = []
            for row in ids[1 : KEYS_TIMED + 1]:
                began = terminal.press("j")
                times.append(terminal.until(contains(f"48;2;{cursor}m{row}")) - began)
                terminal.rest(0.03)
    finally:
        writer.kill()
        writer.wait()
    times.sort()
    return {"p50": statistics.median(times), "p99": times[int(len(times) * 0.99)], "max": times[-1]}


def measure_ui(folder: Path) -> dict[str, dict[str, float]]:
    """Run every measurement with stores made below a folder; return seconds (and bytes) by name."""
    many = sample_store(folder, "list", runs=10_000, points=20)
    long = long_store(folder, 200_000)
    overlay = sample_store(folder, "overlay", runs=50, points=2_000, keys=9)
    paints = first_paint(many)
    return {
        "first paint, 10,000 runs": {"median": statistics.median(paints), "min": min(paints), "max": max(paints)},
        "sort and filter 10,000 runs": sort_and_filter(many),
        "1 run x 200,000 points x 9 charts": one_run(long),
        "50 runs x 2,000 points x 9 charts": many_runs(overlay, 50),
        "key to paint while 32 runs report": keys_while_ingesting(many),
    }
