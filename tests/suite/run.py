"""Run the whole suite in two processes at once: `python -m tests.suite.run`.

Much of it waits: for Ray, for a terminal's next picture, for a process to end. The interpreter's tests need processes of
their own (Triton chooses it for a whole process); they run beside the others. Exit code 0 only if every test that was
collected ran, and none failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.suite.sharing import ENDED, FOLDER, begun

ROOT = Path(__file__).parents[2]
SUMMARY = "short test summary info"


@dataclass(frozen=True)
class Part:
    """Tests that one pytest runs, or several share: its arguments, and what its environment has besides ours."""

    name: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


INTERPRETER = Part("interpreter", ("tests/interpreter",), (("TRITON_INTERPRET", "1"),))
OTHERS = Part("others")
LANES = ((INTERPRETER, OTHERS), (OTHERS,))
"""What each process does in turn; what two of them do, they share."""


@dataclass
class Lane:
    """Parts that run one after another, each in a process, with all that they print in a file."""

    parts: list[Part]
    folder: Path
    number: int
    running: subprocess.Popen[bytes] | None = None
    ended: list[tuple[Part, int, Path]] = field(default_factory=list)

    def goes_on(self) -> bool:
        """Return whether something runs still, after beginning what comes next if there is anything."""
        if self.running is not None and self.running.poll() is None:
            return True
        if self.running is not None:
            part = self.parts.pop(0)
            self.ended.append((part, self.running.returncode, self._log(part)))
            self.running = None
        if self.parts:
            self.running = self._start(self.parts[0])
        return self.running is not None

    def stop(self) -> None:
        """End what runs still, when the whole run was interrupted: it got the interrupt too, and cleans up."""
        if self.running is not None and self.running.poll() is None:
            self.running.terminate()
            self.running.wait()

    def _log(self, part: Part) -> Path:
        return self.folder / f"{part.name}-{self.number}.log"

    def _start(self, part: Part) -> subprocess.Popen[bytes]:
        (shared := self.folder / part.name).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.suite.sharing"]
        environment = os.environ | dict(part.environment) | {FOLDER: str(shared)}
        with self._log(part).open("wb") as file:
            return subprocess.Popen(
                [*command, *part.arguments], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )


@dataclass
class Suite:
    """What became of the whole suite."""

    folder: Path
    lanes: list[Lane]
    events: list[dict[str, Any]] = field(default_factory=list)

    def news(self) -> list[str]:
        """Return a line for each unit that has ended since the last call."""
        found = []
        for path in sorted(self.folder.glob(f"*/{ENDED}")):
            known = sum(event["part"] == path.parent.name for event in self.events)
            found += [json.loads(line) | {"part": path.parent.name} for line in path.read_text().splitlines()[known:]]
        self.events += found
        return [f"{event['seconds']:6.1f} s  {event['unit']}: {told(event['counts'])}" for event in found]

    def unfinished(self) -> list[str]:
        """Return the units that a process began and did not get to the end of."""
        names = {(event["part"], event["unit"]) for event in self.events}
        parts = {part for lane in self.lanes for part, _, _ in lane.ended}
        started = {(part.name, name) for part in parts for name in begun(self.folder / part.name)}
        return sorted(name for _, name in started - names)

    @property
    def passed(self) -> bool:
        """Whether every process says so, and all that was begun has ended."""
        ended = [code for lane in self.lanes for _, code, _ in lane.ended]
        return bool(ended) and not any(ended) and not self.unfinished()

    def report(self) -> str:
        """Return all that a process with a failure printed, the summary of the others, and the counts."""
        texts = []
        for part, code, log in (entry for lane in self.lanes for entry in lane.ended):
            text = log.read_text(errors="replace")
            head, _, tail = text.partition(SUMMARY)
            texts.append(text if code else f"{part.name}: {tail.partition(chr(10))[2] or head[-200:]}")
        texts += [f"begun and not ended: {name}" for name in self.unfinished()]
        total: Counter[str] = Counter()
        for event in self.events:
            total.update(event["counts"])
        return "\n".join([*texts, told(total)])


def told(counts: dict[str, int]) -> str:
    """Return counts by outcome as pytest writes them."""
    words = [f"{counts[word]} {word}" for word in ("failed", "errors", "passed", "skipped") if counts.get(word)]
    return ", ".join(words) or "nothing ran"


def run(lanes: Sequence[Sequence[Part]], folder: Path) -> Suite:
    """Run the lanes beside each other, and print what has ended as it ends."""
    suite = Suite(folder, [Lane(list(parts), folder, number) for number, parts in enumerate(lanes)])
    try:
        while [lane for lane in suite.lanes if lane.goes_on()]:
            _say(suite.news())
            time.sleep(0.5)
    finally:
        for lane in suite.lanes:
            lane.stop()
    _say(suite.news())
    return suite


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> int:
    """The command line."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mambalab-suite-") as name:
        suite = run(LANES, Path(name))
        _say([f"{suite.report()} in {time.monotonic() - started:.0f} s"])
        return 0 if suite.passed else 1


if __name__ == "__main__":
    sys.exit(main())
