"""A run's spec as TOML to edit, tables below their values; what is not set stands as a comment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested tables as TOML."""
    lines = []
    for key, value in tree.items():
        if value is None:
            lines.append(f"# {key} is not set")
        elif not isinstance(value, Mapping):
            lines.append(f"{key} = {toml_value(value)}")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            name = f"{prefix}{key}"
            lines += ["", f"[{name}]", to_toml(value, f"{name}.").rstrip("\n")]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """Return a value as TOML; texts, numbers and truth look as in JSON."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def without_unset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables as TOML can hold them: without what is not set."""
    return {
        key: without_unset(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }
