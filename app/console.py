"""The only place that writes for the user: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

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


def stdout() -> Console:
    """Return a rich console on stdout: coloured and as wide as the terminal, plain and wide in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def stderr() -> Console:
    """Return a rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), title: str = "") -> None:
    """Print a table on stdout; in a pipe, one tab-separated line a row with a header, easy to cut and grep."""
    if not sys.stdout.isatty():
        data("\t".join(columns))
        for row in rows:
            data("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        grid.add_row(*(_coloured(escape(cell)) for cell in row))
    with writing():
        stdout().print(grid)


STATUS_STYLES = {
    "queued": "dim",
    "running": "cyan",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "yellow",
}


def _coloured(cell: str) -> str:
    style = STATUS_STYLES.get(cell)
    return f"[{style}]{cell}[/]" if style else cell


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None if value != value else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
