"""The only place that writes for the user: data to stdout, talk to stderr."""

from __future__ import annotations

import codecs
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from app.errors import CommandError
from app.grid import Grid, one_line

if TYPE_CHECKING:
    from rich.console import Console


class StdoutClosed(Exception):
    """The reader of our stdout has left, as in `mambalab ls | head -1`. Nothing is wrong; nothing more can be written."""


class StdoutFailed(CommandError):
    """stdout takes no more, as on a full disk: what was written is not whole."""


# What an encoding without them gets instead; any other letter that it lacks becomes its escape, so that nothing is lost.
_PLAIN = {
    "±": "+-",
    "†": "*",
    "‡": "**",
    "·": "-",
    "─": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
}


def _legible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return "".join(shown), error.end


codecs.register_error("mambalab.legible", _legible)


def write_any_letter() -> None:
    """Let stdout and stderr take every letter, whatever the encoding of the terminal or the pipe."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mambalab.legible")


@contextmanager
def writing() -> Iterator[None]:
    """Turn a closed stdout into StdoutClosed, which no layer in between takes for a failure of its own."""
    try:
        yield
    except BrokenPipeError as error:
        raise StdoutClosed from error
    except OSError as error:
        raise StdoutFailed(
            f"stdout cannot be written: {error.strerror}. What has arrived there is not the whole answer."
        ) from error


def data(text: str) -> None:
    """Write one piece of data to stdout."""
    with writing():
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def data_bytes(piece: bytes) -> None:
    """Write bytes to stdout as they are, at once: a log may hold anything, and whoever follows it wants it now."""
    with writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def data_json(value: Any) -> None:
    """Write a value to stdout as JSON."""
    takes_all = (sys.stdout.encoding or "").lower().startswith("utf")
    data(dump_json(value, only_ascii=not takes_all))


def dump_json(value: Any, *, only_ascii: bool = False) -> str:
    """Return a value as JSON; NaN becomes null, as JSON has none, and infinities become their names."""
    return json.dumps(_without_nan(value), indent=2, default=str, ensure_ascii=only_ascii, allow_nan=False)


def say(text: str) -> None:
    """Tell the user something on stderr."""
    sys.stderr.write(text + "\n")


def flush() -> None:
    """Write out what stdout still holds."""
    with writing():
        sys.stdout.flush()


def leave_quietly() -> NoReturn:
    """End with success after StdoutClosed."""
    forsake_stdout()
    sys.exit(0)


def forsake_stdout() -> None:
    """Throw away what stdout still holds: the interpreter flushes it once more while it ends, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def confirm(question: str) -> bool:
    """Ask on stderr; only `y` or `yes` is a yes."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def stderr() -> Console:
    """Return a rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def table(grid: Grid) -> None:
    """Print a table on stdout; in a pipe, one tab-separated line a row with a header, easy to cut and grep."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        data(grid.render(width, colours=not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"))
        return
    for row in (grid.columns, *grid.rows):
        data("\t".join(map(one_line, row)))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None if value != value else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
