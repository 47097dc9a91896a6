"""How values are read from the command line and written for people."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import formats
from app.coercion import converter
from app.console import dump_json

LIMITS = SimpleNamespace(min=0, max=10)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "7", 7),
        (float, "2.5", 2.5),
        (str, "7", "7"),
        (Path, "a/b", Path("a/b")),
        (bool, "yes", True),
        (bool, "0", False),
        (list[int], ("1", "2"), [1, 2]),
    ],
)
def test_text_becomes_a_value(kind: Any, text: Any, value: Any) -> None:
    convert = converter(kind, LIMITS)
    assert convert is not None
    assert convert(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (int, "2.5", "expected a whole number"),
        (int, "-1", "of at least 0"),
        (float, "11", "of at most 10"),
        (float, "fast", "expected a number"),
        (bool, "maybe", "expected true or false"),
    ],
)
def test_other_text_is_refused(kind: Any, text: str, told: str) -> None:
    convert = converter(kind, LIMITS)
    assert convert is not None
    with pytest.raises(ValueError, match=told):
        convert(text)


def test_other_types_are_left_to_typer() -> None:
    assert converter(complex, LIMITS) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0s"), (59.94, "59.9s"), (61, "1m 01s"), (7500, "2h 05m"), (100_000, "1d 03h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(("back", "text"), [(0, "0s ago"), (59, "59s ago"), (3599, "59m ago"), (90_000, "1d ago")])
def test_ages(back: float, text: str) -> None:
    assert formats.ago(1e9 - back, now=1e9) == text


@pytest.mark.parametrize(("count", "text"), [(950, "950"), (66_500, "66.5K"), (1.2e6, "1.2M"), (105e9, "105.0G")])
def test_large_counts(count: float, text: str) -> None:
    assert formats.large(count) == text


def test_json_has_no_nan() -> None:
    assert dump_json([math.nan, math.inf, -math.inf, {"x": (math.nan,)}]).split() == [
        "[", "null,", '"inf",', '"-inf",', "{", '"x":', "[", "null", "]", "}", "]"
    ]  # fmt: skip
