"""Exit codes, and how an error of any room becomes one sentence on stderr.

0 done, 1 failed while running, 2 bad input, 3 not found, 130 interrupted. stdout stays free for data.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn


class ExitCode(IntEnum):
    """What a caller may rely on."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot go on; `message` is for the user, `code` for the caller."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def bad_input(message: str) -> NoReturn:
    """End the command with exit code 2."""
    raise CommandError(message, ExitCode.BAD_INPUT)


def exit_code_of(error: Exception) -> ExitCode | None:
    """Return the exit code an expected error ends with, or None for a defect that deserves its traceback."""
    from storage.errors import AmbiguousPrefix, NotFound, NotReadOnly, StorageError, StoreMissing

    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, NotFound | StoreMissing):
        return ExitCode.NOT_FOUND
    if isinstance(error, AmbiguousPrefix | NotReadOnly):
        return ExitCode.BAD_INPUT
    if isinstance(error, StorageError):
        return ExitCode.FAILED
    from workers.errors import SpecError, TaskError

    if isinstance(error, SpecError | TaskError):
        return ExitCode.BAD_INPUT
    return None
