"""How the store keeps values as JSON, compact and valid for every other reader, and how text from it is shown."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """Return compact JSON. NaN becomes null and infinities become "inf" and "-inf": JSON has neither.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def visible(text: str) -> str:
    """Return the text on one line with `�` for what a terminal would obey instead of showing it, such as an escape."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else (" " if letter.isspace() else "\ufffd") for letter in text)
