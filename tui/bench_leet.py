"""The same work in W&B LEET, the other terminal UI for runs, where `wandb` is on the path: for figures side by side.

The data are as many runs, points and metrics, logged offline by wandb itself; keys go in and painted text comes out as in
`tui.bench`. LEET loads runs as they are selected and says nowhere that it has done, so that a figure ends with the last byte
before a quiet of `QUIET_S`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tui.bench_terminal import Terminal, peak_memory

QUIET_S = 1.5
KEYS = 9
LOG = """
import math, sys, wandb
folder, runs, points, keys = sys.argv[1], *map(int, sys.argv[2:5])
quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
for index in range(runs):
    run = wandb.init(project="bench", dir=folder, mode="offline", name=f"run-{index:03d}", settings=quiet)
    for step in range(points):
        run.log({f"train/metric_{key}": math.sin(step / (points / 40) + key) + (step * 7 + index) % 11 / 20 for key in range(keys)})
    run.finish()
"""


def find_leet() -> Path | None:
    """Return the `wandb` program; None where there is none."""
    found = shutil.which("wandb")
    return None if found is None else Path(found)


def version_of(program: Path) -> str:
    """Return which wandb it is."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().rpartition(" ")[2]


def offline_runs(program: Path, folder: Path, *, runs: int, points: int) -> Path:
    """Return a folder of runs that wandb logged offline, made at the first call."""
    target = folder / f"wandb-{runs}x{points}x{KEYS}"
    if not target.exists():
        target.mkdir(parents=True)
        python = program.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!").strip()
        subprocess.run(
            [python, "-c", LOG, str(target), str(runs), str(points), str(KEYS)], check=True, capture_output=True
        )
    return target / "wandb"


@contextmanager
def leet(program: Path, runs: Path, settings: Path) -> Iterator[Terminal]:
    """Run LEET on a folder of runs; it is ended when the block is left."""
    terminal = Terminal([str(program), "leet", str(runs)], settings)
    try:
        yield terminal
    finally:
        for child in psutil.Process(terminal.pid).children(recursive=True):
            child.kill()
        terminal.close()


def tree_memory(pid: int) -> int:
    """Return the largest sizes of a process and of those it started, added up."""
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return sum(peak_memory(member) for member in family)


def has(text: bytes, written: bytes) -> bool:
    """Prove that a text was painted."""
    return text in written


def measure_leet(
    program: Path, folder: Path, *, count: int = 50, points: int = 2_000, long: int = 200_000
) -> dict[str, dict[str, float]]:
    """Return seconds (and bytes) by name, of the measurements that LEET has a counterpart of."""
    many = offline_runs(program, folder, runs=count, points=points)
    (many / ".wandb-leet.json").unlink(missing_ok=True)  # where LEET keeps which runs were selected
    one = offline_runs(program, folder, runs=1, points=long)
    with tempfile.TemporaryDirectory(prefix="leet-settings-") as settings:
        with leet(program, many, Path(settings)) as terminal:
            first = terminal.until(lambda out: has(b"offline-run", out)) - terminal.began
            terminal.settled(lambda out: has(b"metric_0", out), QUIET_S)
            began = terminal.press("s " * (count - 1))  # the first is selected from the start
            selected = terminal.settled(lambda out: bool(out), QUIET_S) - began
            memory = tree_memory(terminal.pid)
        with leet(program, one, Path(settings)) as terminal:
            drawn = terminal.settled(lambda out: has(b"metric_0", out), QUIET_S) - terminal.began
            long_memory = tree_memory(terminal.pid)
    return {
        f"first paint, {count} runs": {"once": first},
        f"{count} runs x {points:,} points x {KEYS} charts": {"from_key": selected, "peak_bytes": memory},
        f"1 run x {long:,} points x {KEYS} charts": {"from_start": drawn, "peak_bytes": long_memory},
    }
