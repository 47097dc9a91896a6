"""Writes an ablation's table to files."""

from __future__ import annotations

from pathlib import Path

from storage.export import render_matrix
from storage.matrix import Matrix
from storage.rows import AblationRow


def write_exports(folder: Path, name: str, matrix: Matrix, ablation: AblationRow) -> None:
    """Write a matrix in the three formats, each aside and renamed. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, suffix in (("md", "md"), ("latex", "tex"), ("csv", "csv")):
        aside = folder / f".{name}.{suffix}.part"
        aside.write_text(render_matrix(matrix, kind, title=ablation.question or ablation.name), encoding="utf-8")
        aside.replace(folder / f"{name}.{suffix}")
