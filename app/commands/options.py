"""Options that several verbs share, so that they read and mean the same everywhere."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from app.errors import bad_input
from storage.status import FARTHEST_PRIORITY

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as model.d_state=8. May be given often."),
]
Address = Annotated[
    str | None, typer.Option(help="Join this Ray cluster (HOST:PORT) instead of starting one.", show_default=False)
]
Executor = Annotated[
    str | None,
    typer.Option(
        help="What runs the workers: ray, subprocess, or inline (in this process, to debug). Default: ray, or what the "
        "living controller uses.",
        show_default=False,
    ),
]
Priority = Annotated[
    int, typer.Option(min=-FARTHEST_PRIORITY, max=FARTHEST_PRIORITY, help="Runs with a higher one start first.")
]
Pack = Annotated[
    str | None,
    typer.Option(
        metavar="auto|off|N",
        help="How many runs that differ in no tensor's shape, such as seeds, may train at once as one model in one worker. "
        "auto: up to 16 small ones where they share a GPU. The same as --set resources.pack=...",
        show_default=False,
    ),
]

EXECUTORS = ("ray", "subprocess", "inline")


def check_executor(name: str | None, address: str | None) -> None:
    """End with bad input where the executor is not known, or the address is none or of no use to it."""
    if name is not None and name not in EXECUTORS:
        bad_input(f"--executor: got {name!r}, expected one of {', '.join(EXECUTORS)}")
    if address is None:
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        bad_input(f"--address: got {address!r}, expected HOST:PORT of a Ray head, such as 10.0.0.1:6379")
    if name not in (None, "ray"):
        bad_input(
            f"--address: got {address!r} with --executor {name}, which joins no cluster. Leave one of the two out."
        )


def pack_override(text: str | None) -> list[str]:
    """Return what `--pack` changes in the specs."""
    if text is None:
        return []
    if text not in ("auto", "off") and not (text.isdecimal() and int(text) >= 1):
        bad_input(f"--pack: got {text!r}, expected auto, off, or a number of runs of at least 1")
    return [f"resources.pack={text}"]


def parse_seeds(text: str | None, name: str = "--seeds") -> list[int] | None:
    """Return the seeds that `3` (0, 1, 2) or `4,7,9` name; `name` is the option's, for errors."""
    if text is None:
        return None
    from workers.ablation import MAX_RUNS

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        bad_input(f"{name}: got {text!r}, expected a count such as 3 or a list such as 0,1,2")
    if "," not in text:
        if not 1 <= numbers[0] <= MAX_RUNS:
            bad_input(f"{name}: got {numbers[0]}, expected a count of at least 1 and at most {MAX_RUNS:,}")
        return list(range(numbers[0]))
    return numbers


def parse_lengths(text: str | None) -> list[int] | None:
    """Return the lengths that `64..1024` (64, 128, .. up to 1024) or `64,256`, or both mixed, name; each once."""
    if text is None:
        return None
    lengths: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().replace("_", "").partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()) or int(first) < 1:
            _bad_lengths(text)
        length, end = int(first), int(last) if dots else int(first)
        if end < length:
            _bad_lengths(text)
        while length <= end:
            lengths.append(length)
            length *= 2
    return list(dict.fromkeys(lengths))


def _bad_lengths(text: str) -> NoReturn:
    bad_input(
        f"--lengths: got {text!r}, expected a range that doubles such as 64..1048576, a list such as 64,256,1024, or both "
        "mixed; each at least 1"
    )
