"""What the terminal UI remembers between sessions, in $XDG_CONFIG_HOME/mambalab/ui.json."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

WIDEST = 1000
DEFAULT_COLUMNS = ("id", "name", "status", "progress", "metric", "ablation", "eta", "age", "step", "tags")


@dataclass(slots=True)
class Settings:
    """Choices of the user. Unknown keys in the file are left out, wrong types fall back to the default."""

    theme: str = "mambalab-dark"
    columns: list[str] = field(default_factory=lambda: list(DEFAULT_COLUMNS))
    widths: dict[str, int] = field(default_factory=dict)
    sort: str = ""
    descending: bool = True
    smoothing: float = 0.0
    x_axis: str = "step"
    log_y: bool = False
    queries: list[str] = field(default_factory=list)


def settings_file() -> Path:
    """Return where the settings lie."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(base) / "mambalab" / "ui.json"


def load_settings(path: Path) -> tuple[Settings, str]:
    """Return the stored settings and a warning; the defaults, and why, where they cannot be read."""
    settings = Settings()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return settings, ""
    except (OSError, ValueError) as error:
        return settings, f"{path} cannot be read, the defaults are used: {error}"
    if not isinstance(stored, dict):
        return settings, f"{path} holds no object, the defaults are used"
    for item in fields(Settings):
        value = stored.get(item.name)
        if value is not None and isinstance(value, type(getattr(settings, item.name))) and _fits(item.name, value):
            setattr(settings, item.name, value)
    return settings, ""


def _fits(name: str, value: Any) -> bool:
    """Tell whether a value of the right type is one that the setting may have: files are edited by hand, too."""
    if name in ("columns", "queries"):
        return all(isinstance(item, str) for item in value)
    if name == "widths":
        return all(type(width) is int and 0 < width <= WIDEST for width in value.values())
    return name != "smoothing" or bool(0 <= value < 1)


def save_settings(path: Path, settings: Settings) -> str:
    """Write the settings aside and rename; return why where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".ui-", suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(settings), file, indent=2)
        Path(name).replace(path)
    except OSError as error:
        return f"settings are not kept: {error}"
    return ""
