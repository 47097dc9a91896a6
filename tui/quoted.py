"""The numbers that an ablation quotes from a paper, by the cells of its matrix. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.matrix import CellKey, Matrix
from storage.rows import AblationRow


@dataclass(frozen=True, slots=True)
class Quoted:
    """A paper's numbers in the unit of our metric; `comparable` where a difference to them means something."""

    source: str = ""
    values: Mapping[CellKey, float] = field(default_factory=dict)
    comparable: bool = True
    factor: float = 1.0


def quoted(ablation: AblationRow, matrix: Matrix) -> Quoted:
    """Return what the ablation's file quotes for the matrix's metric; nothing where it quotes none.

    A paper that reports the best value over some axes (`best_over`) has one number for all cells along these.
    """
    paper: Any = ablation.spec.get("paper")
    if not isinstance(paper, dict):
        return Quoted()
    deciding = paper.get("metric") or ablation.metric
    also = paper.get("also") or {}
    printed = (paper.get("values") or {}) if matrix.metric == deciding else also.get(matrix.metric, {})
    factor = float(paper.get("factor", 1.0))
    left_out = set(paper.get("best_over") or ())
    values = {}
    for key in matrix.cells:
        labels = dict(zip((*matrix.row_axes, *matrix.column_axes), (*key[0], *key[1]), strict=True))
        name = " · ".join(labels[axis] for axis in ablation.axes if axis not in left_out) or "baseline"
        if name in printed:
            values[key] = float(printed[name]) * factor
    return Quoted(str(paper.get("source", "")), values, bool(paper.get("comparable", True)), factor)
