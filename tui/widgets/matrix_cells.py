"""What the lines of a matrix's cell say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.export import MARK
from storage.matrix import Cell, CellKey, Matrix, format_cell, format_mean
from tui.format import bar
from tui.quoted import Quoted
from tui.theme import STATUS_GLYPHS, Palette

FULL_CELL = 20  # from this width on a cell shows mean ± std (n) on one line
Piece = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CellWriter:
    """Writes cells of some width; `judge` is the matrix whose p values are known."""

    matrix: Matrix
    judge: Matrix | None
    quoted: Quoted
    width: int
    palette: Palette

    def pieces(self, key: CellKey, line: int) -> Sequence[Piece]:
        """Return a line of a cell: its value, its state, or the paper's number."""
        palette = self.palette
        cell = self.matrix.cells.get(key)
        if cell is None:
            return (("·", palette.faint),) if line == 0 else ()
        if line == 0:
            return self._value(key, cell, palette)
        if line == 1:
            return self._state(key, cell, palette)
        return self._paper(key, cell, palette)

    def _paper(self, key: CellKey, cell: Cell, palette: Palette) -> Sequence[Piece]:
        """Return the paper's number, as printed where ours is not of its unit, and ours less it where that means something."""
        paper = self.quoted.values.get(key)
        if paper is None:
            return ()
        shown = format_mean(paper if self.quoted.comparable else paper / self.quoted.factor, None)
        if not self.quoted.comparable or not cell.n:
            return ((f"paper {shown}", palette.muted),)
        difference = cell.mean - paper
        sign = "+" if difference > 0 else "-" if difference < 0 else ""
        gap = (f" {sign}{format_mean(abs(difference), None)}", self._judged(difference, palette))
        word = "paper " if self.width >= FULL_CELL else "¶"
        return ((f"{word}{shown}", palette.muted), gap)

    def _value(self, key: CellKey, cell: Cell, palette: Palette) -> Sequence[Piece]:
        best = key in self.matrix.best
        star = (("★ ", palette.best),) if best else ()
        color = palette.best if best else palette.text
        if not cell.n:
            failed = cell.progress >= 1
            return ((format_cell(cell), palette.statuses["failed"] if failed else palette.muted),)
        if self.width >= FULL_CELL:
            return (*star, (format_cell(cell), color))
        return (*star, (format_mean(cell.mean, cell.std).replace(" ± ", "±"), color))

    def _state(self, key: CellKey, cell: Cell, palette: Palette) -> Sequence[Piece]:
        if cell.progress < 1:
            width = max(3, min(8, self.width - 8))
            words = "".join(f" {STATUS_GLYPHS[status]}{cell.counts[status]}" for status in ("running", "queued")
                            if cell.counts.get(status))  # fmt: skip
            filled, rest = bar(cell.progress, width)
            return ((filled, palette.statuses["running"]), (rest, palette.faint), (words, palette.muted))
        pieces: list[Piece] = []
        if cell.n and self.width < FULL_CELL:
            pieces.append((f"n={cell.n} ", palette.muted))
        if failed := cell.counts.get("failed"):
            pieces.append((f"{STATUS_GLYPHS['failed']}{failed} ", palette.statuses["failed"]))
        if cell.nans:
            pieces.append((f"NaN×{cell.nans} ", palette.statuses["failed"]))
        if key == self.matrix.baseline:
            pieces.append(("baseline", palette.muted))
        elif (difference := self.matrix.difference(key)) is not None:
            sign = "+" if difference > 0 else "-" if difference < 0 else ""
            mark = MARK if self.judge is not None and self.judge.differs(key) else ""
            pieces.append((sign + format_mean(abs(difference), None) + mark, self._judged(difference, palette)))
            if len(pieces) > 1 and sum(len(text) for text, _ in pieces) > self.width:
                return pieces[1:]  # rather than the mark, n is left out: the seeds are listed below
        return pieces

    def _judged(self, difference: float, palette: Palette) -> str:
        if not difference or not self.matrix.direction:
            return palette.muted
        better = (difference > 0) == (self.matrix.direction == "max")
        return palette.good if better else palette.bad
