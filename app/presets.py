"""Ablations that come with mambalab: TOML files under app/presets, named by their path without the ending."""

from __future__ import annotations

import difflib
from pathlib import Path

from app.errors import bad_input

ROOT = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.toml"))


def find_ablation(name: str) -> Path:
    """Return the file of a preset or a path to the user's own TOML file.

    A name that ends in .toml, or that exists as a file, is a path; anything else is a preset.
    """
    given = Path(name)
    if given.suffix == ".toml" or given.is_file():
        if not given.is_file():
            bad_input(f"{name}: no such file. Name a TOML file or a preset: {', '.join(preset_names())}.")
        return given
    names = preset_names()
    if name in names:
        return ROOT / f"{name}.toml"
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Presets: {', '.join(names)}."
    bad_input(f"{name}: neither a preset nor a file. {hint}")
