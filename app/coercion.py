"""Values of options and arguments, coerced without pydantic.

Typer sends each value through a pydantic adapter, whose import and making cost more than `mambalab ls` takes otherwise.
What the verbs take are words, numbers and paths; for anything else Typer's own way stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from typer.core import TyperCommand

Convert = Callable[[Any], Any]


class PlainParameter:
    """Takes the place of Typer's adapter for one parameter."""

    def __init__(self, convert: Convert) -> None:
        self._convert = convert

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value in its type. Raises BadParameter with what was expected."""
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        try:
            return self._convert(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from error


def lighten(parameter: Any) -> None:
    """Give a parameter of Typer's plain coercion where its type allows it."""
    descriptor = getattr(parameter, "type_descriptor", None)
    convert = None if descriptor is None else converter(descriptor.annotation, descriptor.parameter_info)
    if convert is not None:
        plain = PlainParameter(convert)
        parameter.get_runtime_param = lambda: plain


class PlainCommand(TyperCommand):
    """A command whose parameters are coerced plainly."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words. Where a number is the last of them, `-1` is one and not an option."""
        last = next((found for found in reversed(self.params) if found.param_type_name == "argument"), None)
        takes_number = getattr(getattr(last, "type_descriptor", None), "annotation", None) is int
        if takes_number and args and "--" not in args and args[-1][0:1] == "-" and args[-1][1:].isdecimal():
            args = [*args[:-1], "--", args[-1]]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, the help option included."""
        found = super().get_params(ctx)
        for parameter in found:
            lighten(parameter)
        return found


def converter(annotation: Any, limits: Any) -> Convert | None:
    """Return how text becomes a value of a type, within `limits.min` and `limits.max`; None for a type not known here."""
    if get_origin(annotation) is list:
        one = converter(get_args(annotation)[0], limits)
        return None if one is None else lambda values: [one(value) for value in values]
    if annotation is bool:
        return _boolean
    if annotation is str:
        return str
    if annotation is Path:
        return Path
    if annotation in (int, float):
        return lambda value: _number(value, annotation, limits.min, limits.max)
    return None


def _boolean(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"got {value!r}, expected true or false")
    return found


def _number(value: Any, kind: type[int] | type[float], least: float | None, most: float | None) -> int | float:
    wanted = "a whole number" if kind is int else "a number"
    try:
        number = kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"got {value!r}, expected {wanted}") from None
    if least is not None and number < least:
        raise ValueError(f"got {value}, expected {wanted} of at least {_written(least)}")
    if most is not None and number > most:
        raise ValueError(f"got {value}, expected {wanted} of at most {_written(most)}")
    return number


def _written(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
