"""Measures the terminal UI as a user meets it: a cold process in a pty of 160 x 50, keys in, painted text out.

`measure_ui(folder)` makes seeded stores below a folder, runs every measurement and returns seconds by name. Times are
from the start of the process, or from a key, to the moment when the text that proves the painting has been written.
Reads what the terminal gets, so nothing in the UI knows that it is measured.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from storage.home import HomePaths
from storage.queries import Reader
from tui.bench_terminal import opened, peak_memory
from tui.theme import DARK

KEYS_TIMED = 150
LAGS_TIMED = 40
WRITERS = 32
INGEST = """
import sys, time
from storage.home import HomePaths
from storage.records import NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
with Repository(HomePaths(sys.argv[1])) as store:
    runs = [NewRun(f"reporting-{index}", {"seed": index}, f"{index}", seed=index, total_steps=100_000)
            for index in range(int(sys.argv[2]))]
    origin = NewProvenance(command="mambalab bench ui", directory="/", hostname="bench", python="3")
    ids = store.submit(ablation=None, runs=runs, provenance=origin).run_ids
    at_work = [(run_id, store.begin_attempt(run_id, executor="bench", now=time.time())) for run_id in ids]
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


COMMIT = """
import sys, time
from storage.home import HomePaths
from storage.records import NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
with Repository(HomePaths(sys.argv[1])) as store:
    origin = NewProvenance(command="mambalab bench ui", directory="/", hostname="bench", python="3")
    run = store.submit(ablation=None, runs=[NewRun("lag", {}, "lag", total_steps=10_000)], provenance=origin).run_ids[0]
    number = store.begin_attempt(run, executor="bench", now=time.time())
    print(run, flush=True)
    for line in sys.stdin:
        step = 900 + int(line)
        store.record(run, number, RecordBatch([(time.time(), step, {"train/loss": 1.0})], cursor=step))
        print(time.perf_counter(), flush=True)
"""


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
            "peak_bytes": peak_memory(terminal.pid),
        }


def many_runs(home: Path, count: int) -> dict[str, float]:
    """Return the seconds until the nine charts of many runs over one another are drawn."""
    with opened(home) as terminal:
        terminal.settled(contains(newest(home, 1)[0]))
        terminal.press(" " * count)
        terminal.settled(contains(f"{count} marked"))
        began = terminal.press("c")
        drawn = terminal.settled(nine_charts, quiet_s=0.6)  # longer than the pause between two pieces of a long read
        return {"from_key": drawn - began, "peak_bytes": peak_memory(terminal.pid)}


def keys_while_ingesting(home: Path) -> dict[str, float]:
    """Return percentiles of the seconds from a key to the cursor on the next row, while 32 runs report ten times a second."""
    cursor = ";".join(str(int(DARK.cursor[index : index + 2], 16)) for index in (1, 3, 5))
    writer = subprocess.Popen([sys.executable, "-c", INGEST, str(home), str(WRITERS)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        ids = newest(home, KEYS_TIMED + 1)
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


def commit_to_paint(home: Path) -> dict[str, float]:
    """Return percentiles of the seconds from the commit of a run's new step to that step on the screen."""
    writer = subprocess.Popen(
        [sys.executable, "-c", COMMIT, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert writer.stdin is not None
        assert writer.stdout is not None
        row = writer.stdout.readline()[:5]
        with opened(home) as terminal:
            terminal.until(contains(row))
            terminal.rest(2.0)
            times = []
            for step in range(1, LAGS_TIMED + 1):
                terminal.written = b""
                writer.stdin.write(f"{step}\n")
                began = float(writer.stdout.readline())
                times.append(terminal.until(contains(f"{900 + step}")) - began)
                terminal.rest(0.05 + 0.01 * (step % 20))
    finally:
        writer.kill()
        writer.wait()
    times.sort()
    return {"p50": statistics.median(times), "p95": times[int(len(times) * 0.95)], "max": times[-1]}


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
        "commit to paint": commit_to_paint(overlay),
        "key to paint while 32 runs report": keys_while_ingesting(many),
    }
