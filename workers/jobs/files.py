"""Small files that are either whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, tree: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """Write JSON beside its place and rename it there, so that a reader sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(tree, file, indent=1, ensure_ascii=False)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object from a file; None where there is no file or it holds no whole object."""
    try:
        tree = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def tail(path: Path, lines: int = 20, limit: int = 16_384) -> str:
    """Return the last lines of a text file, or an empty text where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            text = file.read(limit).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
