"""What a filter's terms mean: the fields of a run, words, and comparisons. The grammar is in `tui.filter`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from tui.format import parse_duration

Predicate = Callable[[Any, float], bool]
Accessor = Callable[[Any, float], Any]


class FilterError(ValueError):
    """A filter that cannot be understood; `position` is where in the text, from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class Fields:
    """The names that a store's runs have beside the built-in ones."""

    metrics: Collection[str] = ()
    config: Collection[str] = ()
    axes: Collection[str] = ()


class Token(NamedTuple):
    """A piece of the text."""

    kind: str
    text: str
    position: int


def progress_of(run: Any) -> float | None:
    """Return the share of steps done, or None where the total is unknown."""
    return run.step / run.total_steps if run.total_steps else None


def _plain(name: str) -> Accessor:
    return lambda run, _now: getattr(run, name)


PLAIN: tuple[str, ...] = ("id", "name", "status", "ablation", "seed", "step", "total_steps", "attempt", "max_attempts")
PLAIN += ("priority", "reason", "error", "archived", "num", "tags")
BUILT_IN: dict[str, Accessor] = {
    **{name: _plain(name) for name in PLAIN},
    "trial": _plain("trial_label"),
    "tag": _plain("tags"),
    "progress": lambda run, _now: progress_of(run),
    "age": lambda run, now: now - run.created_at,
    "duration": lambda run, _now: run.duration_s,
}
DURATIONS = frozenset({"age", "duration"})


def unquote(token: Token) -> str:
    """Return the token's text without quotes."""
    return token.text[1:-1] if token.kind == "string" else token.text


def _texts(run: Any) -> tuple[str, ...]:
    return (run.name, run.id, run.trial_label or "", run.ablation or "", *run.tags)


def word_predicate(word: str) -> Predicate:
    """Return what a word alone means: it occurs in one of the run's names."""
    wanted = word.casefold()
    if "*" in wanted or "?" in wanted:
        return lambda run, _now: any(fnmatchcase(text.casefold(), wanted) for text in _texts(run))
    return lambda run, _now: any(wanted in text.casefold() for text in _texts(run))


def comparison(name: Token, operator: Token, value: Token, fields: Fields | None) -> Predicate:
    """Return the predicate of `field OP value`. Raises FilterError."""
    accessor = resolve(unquote(name), name.position, fields)
    text = unquote(value)
    if operator.text in ("~", "!~"):
        return _pattern(accessor, operator.text, text, value.position)
    wanted = _number(unquote(name), text)
    if operator.text in ("=", "=="):
        return lambda run, now: equal(accessor(run, now), text, wanted)
    if operator.text == "!=":
        return lambda run, now: (got := accessor(run, now)) is not None and not equal(got, text, wanted)
    if wanted is None:
        raise FilterError(f"{operator.text} compares numbers, got {text!r}", value.position)
    return _ordering(accessor, operator.text, wanted)


def _number(name: str, text: str) -> float | None:
    if text.endswith("%") and (share := parse_duration(text[:-1])) is not None:
        return share / 100
    if name in DURATIONS:
        return parse_duration(text)
    try:
        return float(text)
    except ValueError:
        return None


def _pattern(accessor: Accessor, operator: str, text: str, position: int) -> Predicate:
    try:
        search = re.compile(text, re.IGNORECASE).search
    except re.error as error:
        raise FilterError(f"not a regular expression: {error}", position) from error
    wanted = operator == "~"

    def predicate(run: Any, now: float) -> bool:
        got = accessor(run, now)
        values = got if isinstance(got, tuple) else (got,)
        return got is not None and any(bool(search(str(item))) for item in values) is wanted

    return predicate


def _ordering(accessor: Accessor, operator: str, wanted: float) -> Predicate:
    def number(run: Any, now: float) -> float:
        got = accessor(run, now)
        return got if isinstance(got, int | float) else math.nan  # NaN compares false with everything

    if operator == "<":
        return lambda run, now: number(run, now) < wanted
    if operator == "<=":
        return lambda run, now: number(run, now) <= wanted
    if operator == ">":
        return lambda run, now: number(run, now) > wanted
    return lambda run, now: number(run, now) >= wanted


WORDS = {"true": True, "yes": True, "false": False, "no": False}


def equal(got: Any, text: str, wanted: float | None) -> bool:
    """Tell whether a field's value equals what the user typed."""
    if got is None:
        return text.casefold() == "none"
    if isinstance(got, tuple):
        return any(equal(item, text, wanted) for item in got)
    if isinstance(got, bool):
        return WORDS.get(text.casefold()) is got
    if isinstance(got, int | float):
        if wanted is None:
            return False
        return bool(got == wanted) or (math.isnan(got) and math.isnan(wanted))
    pattern = text.casefold()
    value = str(got).casefold()
    return fnmatchcase(value, pattern) if "*" in pattern or "?" in pattern else value == pattern


def resolve(name: str, position: int, fields: Fields | None) -> Accessor:
    """Return what reads a field from a run. Raises FilterError for a name that no run has, or that several mean."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if fields is None:
        return lambda run, _now: _anywhere(run, name)
    if name in fields.metrics:
        return lambda run, _now: run.metrics.get(name)
    if name in fields.config:
        return lambda run, _now: run.config.get(name)
    if name in fields.axes:
        return lambda run, _now: run.axis_labels.get(name)
    for names, accessor in ((fields.config, _config), (fields.metrics, _metric)):
        ending = [known for known in names if re.split(r"[./]", known)[-1] == name]
        if len(ending) == 1:
            return accessor(ending[0])
        if ending:
            raise FilterError(f"{name!r} may mean {' or '.join(sorted(ending))}", position)
    known = [*BUILT_IN, *fields.metrics, *fields.config, *fields.axes]
    short = {re.split(r"[./]", item)[-1]: item for item in known}
    close = get_close_matches(name, [*known, *short], n=1)
    hint = f"; the nearest is {close[0]}" if close else ""
    raise FilterError(f"no run has a field {name!r}{hint}", position)


def groupings(fields: Fields) -> list[str]:
    """Return the names to suggest for groups: keys of the configuration by their short names where these say enough."""
    short = Counter(key.rpartition(".")[2] for key in fields.config)
    plain_names = {name for name, count in short.items() if count == 1} - BUILT_IN.keys()
    return [*sorted(fields.config), *sorted(fields.axes), "status", "ablation", "trial", "tags", "seed",
            *sorted(plain_names)]  # fmt: skip


def _config(key: str) -> Accessor:
    return lambda run, _now: run.config.get(key)


def _metric(key: str) -> Accessor:
    return lambda run, _now: run.metrics.get(key)


def _anywhere(run: Any, name: str) -> Any:
    for names in (run.metrics, run.config, run.axis_labels):
        if name in names:
            return names[name]
    return None
