"""Exit codes, and how an error of any room becomes one sentence on stderr.

0 done, 1 failed while running, 2 bad input, 3 not found, 130 interrupted. stdout stays free for data.
"""

from __future__ import annotations

import errno
import os
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


# By name, because importing every room to ask `isinstance` would cost more than most commands take.
EXPECTED: dict[str, ExitCode] = {
    "storage.errors.NotFound": ExitCode.NOT_FOUND,
    "storage.errors.StoreMissing": ExitCode.NOT_FOUND,
    "storage.errors.AmbiguousPrefix": ExitCode.BAD_INPUT,
    "storage.errors.QueryFailed": ExitCode.BAD_INPUT,
    "storage.errors.StorageError": ExitCode.FAILED,
    "workers.errors.SpecError": ExitCode.BAD_INPUT,
    "workers.errors.TaskError": ExitCode.BAD_INPUT,
    "workers.errors.CheckpointError": ExitCode.FAILED,
    "workers.jobs.errors.JobError": ExitCode.FAILED,
    "workers.training.errors.TrainingError": ExitCode.FAILED,
    "kernels.common.errors.KernelError": ExitCode.FAILED,
}


def exit_code_of(error: BaseException) -> ExitCode | None:
    """Return the exit code an expected error ends with, or None for a defect that deserves its traceback."""
    if isinstance(error, CommandError):
        return error.code
    for base in type(error).__mro__:
        code = EXPECTED.get(f"{base.__module__}.{base.__qualname__}")
        if code is not None:
            return code
    return None


# What an operating system refuses for reasons outside of this program, and what a person can do about it.
_FOLDER = "--home or $MAMBALAB_HOME names another folder for the store."
_TROUBLES: dict[int, str] = {
    errno.EACCES: f"Have its permissions changed, or work elsewhere: {_FOLDER}",
    errno.EPERM: f"Have its permissions changed, or work elsewhere: {_FOLDER}",
    errno.EROFS: f"It cannot be written there: {_FOLDER}",
    errno.ENOTDIR: f"A file stands where a folder is meant: {_FOLDER}",
    errno.ENAMETOOLONG: "Choose a shorter one.",
    errno.ENOSPC: "Make room and try again.",
    errno.EDQUOT: "Make room and try again.",
    errno.EMFILE: "Raise the limit (`ulimit -n`) and try again.",
}


def environment_trouble(error: BaseException) -> str:
    """Return the sentence for what the operating system refused, or nothing where the error is a defect of ours."""
    if not isinstance(error, OSError) or error.errno not in _TROUBLES:
        return ""
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{place}{error.strerror}. {_TROUBLES[error.errno]}"
