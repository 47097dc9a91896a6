"""A program in a pty: what it is sent, and what it writes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

COLUMNS, LINES = 160, 50
LIMIT_S = 60.0
QUIET_S = 0.25
ANSWERS = {  # the colour of the ground, what the terminal can do, and where the cursor is
    b"\x1b]11;?": b"\x1b]11;rgb:1212/1515/1b1b\x1b\\",
    b"\x1b[c": b"\x1b[?62;22c",
    b"\x1b[6n": b"\x1b[1;1R",
}
RUN = "import sys; from storage.home import HomePaths; from tui.app import run_ui; run_ui(HomePaths(sys.argv[1]))"


class Terminal:
    """A program in a pty, and all that it has written so far. What it asks of its terminal is answered."""

    def __init__(self, words: Sequence[str], settings: Path) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor",
                       "HOME": str(settings), "XDG_CONFIG_HOME": str(settings)}  # fmt: skip
        environment.pop("NO_COLOR", None)
        self.began = time.perf_counter()
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.execve(words[0], list(words), environment)  # noqa: S606 - what is measured
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.written = b""

    def read(self, timeout_s: float) -> bool:
        """Take what is written within a time; False where nothing is."""
        if not select.select([self.handle], [], [], timeout_s)[0]:
            return False
        try:
            piece = os.read(self.handle, 1 << 20)
        except OSError as error:  # the other end is gone
            raise RuntimeError(f"the terminal UI ended early; its last words: {self.written[-300:]!r}") from error
        for question, answer in ANSWERS.items():
            if question in piece:
                os.write(self.handle, answer)
        self.written += piece
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
        peak = peak_memory(self.pid)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)
        return peak


def peak_memory(pid: int) -> int:
    """Return the largest size that a process has had, in bytes; 0 where that is not known."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


@contextmanager
def opened(home: Path) -> Iterator[Terminal]:
    """Run the UI on a store; it is ended when the block is left."""
    with tempfile.TemporaryDirectory(prefix="mambalab-bench-") as settings:  # as for a user who has no settings yet
        terminal = Terminal([sys.executable, "-c", RUN, str(home)], Path(settings))
        try:
            yield terminal
        finally:
            terminal.close()
