"""The only place that writes for the user: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from app.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console


class StdoutClosed(Exception):
    """The reader of our stdout has left, as in `mambalab ls | head -1`. Nothing is wrong; nothing more can be written."""


@contextmanager
def writing() -> Iterator[None]:
    """Turn a closed stdout into StdoutClosed, which no layer in between takes for a failure of its own."""
    try:
        yield
    except BrokenPipeError as error:
        raise StdoutClosed from error


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
    data(dump_json(value))


def dump_json(value: Any) -> str:
    """Return a value as JSON; NaN becomes null, as JSON has none, and infinities become their names."""
    return json.dumps(_without_nan(value), indent=2, default=str, ensure_ascii=False, allow_nan=False)


def say(text: str) -> None:
    """Tell the user something on stderr."""
    sys.stderr.write(text + "\n")


def flush() -> None:
    """Write out what stdout still holds."""
    with writing():
        sys.stdout.flush()


def leave_quietly() -> NoReturn:
    """End with success after StdoutClosed."""
    # the interpreter flushes stdout once more while it ends; that must not meet the closed pipe again
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


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
        data("\t".join(" ".join(cell.split()) for cell in row))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None if value != value else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
