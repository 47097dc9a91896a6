"""Follows a log file: the end of it first, then what is added."""

from __future__ import annotations

import re

from storage.home import HomePaths

FIRST_BYTES = 512 * 1024
CHUNK_BYTES = 1024 * 1024
ESCAPES = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*(?:\x07|\x1b\\)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]"
)


class LogTail:
    """Reads one attempt's log in pieces. Not thread-safe: the source's thread alone calls it."""

    def __init__(self, paths: HomePaths, run_id: str, attempt: int) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self._path = paths.attempt(run_id, attempt).log if attempt > 0 else None
        self._offset = -1
        self._rest = b""
        self._told = False

    def read(self) -> tuple[list[str], bool]:
        """Return the lines that are new, and whether they begin a new showing.

        Escape sequences are taken out, and of a line that was rewritten with carriage returns the last state is kept.
        The last, unfinished line waits for its end. A file that has become shorter is read anew.
        """
        first = not self._told
        self._told = True
        if self._path is None:
            return [], first
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if self._offset < 0 or size < self._offset:
                    first = first or self._offset > size
                    self._rest = b""
                    self._offset = max(0, size - FIRST_BYTES)
                    file.seek(self._offset)
                    if self._offset:
                        self._offset += len(file.readline())
                file.seek(self._offset)
                data = file.read(CHUNK_BYTES)
        except OSError:
            return [], first  # not written yet, or on another machine: the screen says that there is nothing
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [clean(line.decode("utf-8", "replace")) for line in whole], first


def clean(line: str) -> str:
    """Return a line as a terminal would leave it."""
    return ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]).expandtabs(4)
