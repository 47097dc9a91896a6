"""Turns pydantic's errors into one sentence a person can act on, with the nearest known key."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

_QUOTED = re.compile("'([^']*)'")


def describe_errors(model: type[BaseModel], error: ValidationError, prefix: str = "") -> str:
    """Return every problem of a ValidationError: key, what was expected, what was got, nearest known key."""
    return "; ".join(_describe(model, detail, prefix) for detail in error.errors(include_url=False))


def known_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Return every dotted key a spec accepts, those of all members of a union included."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        nested = list(_models_in(field.annotation))
        if nested:
            for inner in nested:
                keys |= known_keys(inner, f"{prefix}{name}.")
        else:
            keys.add(f"{prefix}{name}")
    return keys


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _describe(model: type[BaseModel], detail: typing.Any, prefix: str) -> str:
    location = [str(part) for part in detail["loc"]]
    tags = _union_tags(model)
    shown = prefix + ".".join(part for part in location if part not in tags or part == location[-1])
    if detail["type"] == "extra_forbidden":
        return f"unknown key `{shown}`{_nearest(model, shown.removeprefix(prefix), prefix)}"
    message = detail["msg"].removeprefix("Value error, ")
    got = detail.get("input")
    if detail["type"] == "union_tag_invalid":
        known = _QUOTED.findall(detail["ctx"]["expected_tags"])
        return f"key `{shown}.name`: {_choice(detail['ctx']['tag'], known)}"
    if detail["type"] == "union_tag_not_found":
        return f"key `{shown}`: its other keys depend on `{shown}.name`, which is missing; add it, such as --set {shown}.name=NAME"
    if detail["type"] == "literal_error" and isinstance(got, str):
        known = _QUOTED.findall(detail["ctx"]["expected"])
        return f"key `{shown}`: {_choice(got, known)}"
    if detail["type"] == "string_pattern_mismatch" and location[-1] == "name":
        return (
            f"key `{shown}`: expected small letters a to z, digits and . _ - /, beginning with a letter or a digit, so that "
            f"the command line and files can bear it; got {got!r}"
        )
    suffix = "" if isinstance(got, dict) or detail["type"] == "value_error" else f", got {got!r}"
    return f"key `{shown}`: {message}{suffix}" if shown else f"{message}{suffix}"


def _choice(got: str, known: list[str]) -> str:
    close = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    meant = f": did you mean {close[0]!r}?" if close else "."
    return f"got {got!r}, expected one of {', '.join(known)}{meant}"


def _nearest(model: type[BaseModel], key: str, prefix: str) -> str:
    known = known_keys(model)
    tables = {name.rpartition(".")[0] for name in known} - {""}
    close = difflib.get_close_matches(key, tables, n=1, cutoff=0.8)
    if close:
        return f": did you mean the table `{prefix}{close[0]}`?"
    leaf = key.rpartition(".")[2]
    by_leaf = {name.rpartition(".")[2]: name for name in sorted(known)}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7) or [
        by_leaf[match] for match in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)
    ]
    if close:
        return f": did you mean `{prefix}{close[0]}`?"
    parent = key.rpartition(".")[0]
    below = f"{parent}." if parent else ""
    siblings = sorted({below + name.removeprefix(below).split(".")[0] for name in known if name.startswith(below)})
    return f". Known keys here: {', '.join(siblings)}" if siblings else f". Known keys: {', '.join(sorted(known))}"


def _union_tags(model: type[BaseModel]) -> set[str]:
    """The discriminator values that pydantic puts into an error's location; they are no part of the key."""
    tags: set[str] = set()
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            name = inner.model_fields.get("name")
            if name is not None and typing.get_origin(name.annotation) is typing.Literal:
                tags |= set(typing.get_args(name.annotation))
            tags |= _union_tags(inner)
    return tags
