"""Run the tests on this machine's GPU in several processes at once: `python -m tests.parity.run [FILE or TEST ...]`.

Compiling the kernels is what takes long, and a process compiles one at a time: with a process for each core a suite that
needs an hour takes minutes. Needs pytest, and none of its plugins. Exit code 0 only if every test ran and passed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.parity.sharing import DEADLINE, EVENTS, FOLDER, NEXT, TOTAL

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
INI = """[pytest]
addopts = --strict-markers --import-mode=importlib -p no:cacheprovider
markers =
    gpu: needs a CUDA device
"""
GRACE_S = 60.0
"""How long the tests that have begun may go on once the time is up."""


@dataclass
class Verdict:
    """What became of one test."""

    outcome: str = "died"
    seconds: float = 0.0
    text: str = ""


@dataclass
class Outcome:
    """What became of a suite."""

    tests: dict[str, Verdict] = field(default_factory=dict)
    total: int = 0
    trouble: list[str] = field(default_factory=list)
    """The last lines of processes that could not run tests at all."""

    def count(self, outcome: str) -> int:
        """Return how many tests ended so: passed, failed, skipped, or died with their process."""
        return sum(test.outcome == outcome for test in self.tests.values())

    @property
    def passed(self) -> bool:
        """Whether every test ran, and passed."""
        return 0 < self.total == self.count("passed") and not self.trouble


def run_shared(paths: Sequence[str], marks: str, *, processes: int, limit_s: float) -> Outcome:
    """Run the tests at `paths` that have the marks, in so many processes; none begins after `limit_s` seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder, deadline = Path(name), time.time() + limit_s
        (folder / "pytest.ini").write_text(INI)
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(folder / "pytest.ini"), f"--rootdir={ROOT}"]
        command += [f"--confcutdir={HERE}", "-p", "tests.parity.sharing", "-m", marks, *paths]
        environment = os.environ | {FOLDER: name, DEADLINE: str(deadline)}
        environment.setdefault("OMP_NUM_THREADS", "1")
        running = [_start(command, environment, folder / f"{place}.log") for place in range(processes)]
        trouble, started = [], processes
        while running:
            time.sleep(0.2)
            over = time.time() > deadline + GRACE_S
            ended = [process for process in running if process.ended(kill=over)]
            running = [process for process in running if process not in ended]
            trouble += [process.last_words() for process in ended if process.hopeless]
            for _ in ended:  # a process that lost the GPU, or died, is replaced
                if not trouble and started < 3 * processes and _left(folder) and time.time() < deadline:
                    running.append(_start(command, environment, folder / f"{started}.log"))
                    started += 1
        return _read(folder, trouble)


@dataclass(frozen=True)
class _Process:
    process: subprocess.Popen[bytes]
    log: Path

    def ended(self, *, kill: bool) -> bool:
        if kill and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        return self.process.poll() is not None

    @property
    def hopeless(self) -> bool:
        """Whether it could not run tests at all: pytest's codes for interrupted, internal and usage errors."""
        return self.process.returncode in (2, 3, 4)

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def _start(command: Sequence[str], environment: dict[str, str], log: Path) -> _Process:
    with log.open("wb") as file:
        return _Process(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT), log
        )


def _left(folder: Path) -> bool:
    """Whether there are tests that nobody has begun."""
    total, begun = folder / TOTAL, folder / NEXT
    return total.exists() and begun.exists() and int(begun.read_text() or 0) < int(total.read_text() or 0)


def _read(folder: Path, trouble: list[str]) -> Outcome:
    outcome = Outcome(trouble=trouble)
    if (folder / TOTAL).exists():
        outcome.total = int((folder / TOTAL).read_text())
    lines = (folder / EVENTS).read_text().splitlines() if (folder / EVENTS).exists() else []
    for event in map(json.loads, lines):
        test = outcome.tests.setdefault(event["test"], Verdict())
        if event["phase"] == "begun":
            continue
        test.seconds += event["seconds"]
        if event["outcome"] != "passed":
            test.outcome, test.text = event["outcome"], event["text"]
        elif event["phase"] == "call":
            test.outcome = "passed"
    return outcome


def report(outcome: Outcome, *, slowest: int = 5, lines: int = 12) -> str:
    """Return the failures, the slowest tests and the counts as text."""
    parts = []
    for name, test in outcome.tests.items():
        if test.outcome in ("failed", "died"):
            parts.append(f"{test.outcome.upper()} {name}\n" + "\n".join(test.text.splitlines()[-lines:]))
    parts += [f"a process ended:\n{text}" for text in outcome.trouble]
    ranked = sorted(outcome.tests.items(), key=lambda pair: -pair[1].seconds)[:slowest]
    parts += [f"{test.seconds:6.1f} s {name}" for name, test in ranked]
    counts = ", ".join(f"{outcome.count(word)} {word}" for word in ("passed", "failed", "died", "skipped"))
    parts.append(f"{counts}, {outcome.total - len(outcome.tests)} not run, of {outcome.total}")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.run", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", help="files or tests in the order to begin with; default: all of tests/parity"
    )
    parser.add_argument("--processes", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which no further test begins")
    parser.add_argument("--json", type=Path, help="write what became of each test here")
    options = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        sys.stderr.write("gpu-test: torch sees no CUDA device here, and skipped tests would prove nothing\n")
        return 2
    # the scans, whose kernels take longest to compile, come late in the alphabet
    paths = options.paths or sorted((str(path) for path in HERE.glob("test_*.py")), reverse=True)
    started, good = time.time(), True
    found: dict[str, dict[str, object]] = {}
    for marks, processes in (("gpu and not whole_gpu", options.processes), ("gpu and whole_gpu", 1)):
        outcome = run_shared(paths, marks, processes=processes, limit_s=options.limit - (time.time() - started))
        if outcome.total == 0 and not outcome.trouble and found:
            continue  # nothing asked for needs the whole GPU
        sys.stdout.write(f"{report(outcome)} ({time.time() - started:.0f} s)\n")
        sys.stdout.flush()
        good = good and outcome.passed
        found |= {name: vars(test) for name, test in outcome.tests.items()}
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
