"""The ablation as a matrix that lives: mean ± std (n), difference to the baseline, and how far unfinished cells are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from storage.matrix import Cell, CellKey, Key, Matrix
from tui.cells import fit
from tui.format import number
from tui.quoted import Quoted
from tui.theme import Palette, palette_of, style
from tui.widgets.matrix_cells import CellWriter, Piece

MIN_CELL = 13
MAX_CELL = 24
HEADER = 2


class MatrixView(ScrollView, inherit_bindings=False):
    """Cells in rows and columns with a cursor."""

    DEFAULT_CSS = "MatrixView { overflow-x: hidden; overflow-y: auto; scrollbar-size: 0 1; }"

    class Moved(Message):
        """The cursor is on another cell."""

    class Opened(Message):
        """The cell under the cursor was opened with the mouse."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.matrix: Matrix | None = None
        self._judge: Matrix | None = (
            None  # with the same values: the test takes long for many seeds, so its p values stay
        )
        self.quoted = Quoted()
        self.marks: set[CellKey] = set()
        self.row = 0
        self.column = 0
        self.active = True

    def show(self, matrix: Matrix, quoted: Quoted | None = None) -> None:
        """Show a matrix, a paper's numbers in its cells; the cursor stays in its place, within it."""
        self.quoted = quoted or Quoted()
        if self.matrix is None or _compared(matrix) != _compared(self.matrix):
            self._judge = matrix
        self.matrix = matrix
        self.row = min(self.row, max(0, len(matrix.row_keys) - 1))
        self.column = min(self.column, max(0, len(matrix.column_keys) - 1))
        self._lay_out()

    def on_resize(self, _event: events.Resize) -> None:
        """Lay out anew."""
        self._lay_out()

    def _lay_out(self) -> None:
        if self.matrix is not None:
            width = self._row_width() + len(self.matrix.column_keys) * (self.cell_width + 1)
            self.virtual_size = Size(width, self.content_lines)
        self.refresh()

    @property
    def content_lines(self) -> int:
        """How many lines the matrix needs."""
        rows = len(self.matrix.row_keys) if self.matrix is not None else 0
        return HEADER + 1 + rows * self.row_height

    @property
    def row_height(self) -> int:
        """How many lines a row has: value, state, the paper's number where there is any, and a blank."""
        return 4 if self.quoted.values else 3

    @property
    def key(self) -> CellKey | None:
        """The cell under the cursor."""
        matrix = self.matrix
        if matrix is None or not matrix.row_keys or not matrix.column_keys:
            return None
        return matrix.row_keys[self.row], matrix.column_keys[self.column]

    @property
    def cell(self) -> Cell | None:
        """What is under the cursor; None where no run has that combination."""
        return None if self.matrix is None or self.key is None else self.matrix.cells.get(self.key)

    def runs_of(self, key: CellKey) -> tuple[str, ...]:
        """Return the ids of a cell's runs."""
        cell = self.matrix.cells.get(key) if self.matrix is not None else None
        return cell.run_ids if cell is not None else ()

    def toggle_mark(self) -> None:
        """Mark the cell under the cursor, or take its mark off."""
        if self.key is not None and self.cell is not None:
            self.marks ^= {self.key}
            self.refresh()

    @property
    def chance(self) -> str:
        """How likely the difference to the baseline of the cell under the cursor is by chance, where that can be said."""
        judge, key = self._judge, self.key
        p = None if judge is None or key is None else judge.significance(key)
        if p is None or judge is None or key is None or judge.baseline is None:
            return ""
        seeds = judge.cells[key].values_by_seed.keys() & judge.cells[judge.baseline].values_by_seed.keys()
        return f"   p = {number(p, 2)} against the baseline, {len(seeds)} seeds"

    @property
    def page(self) -> int:
        """How many rows a page moves."""
        return 4

    @property
    def cell_width(self) -> int:
        """Width of a cell: what the columns leave each other."""
        columns = len(self.matrix.column_keys) if self.matrix is not None else 1
        room = self.scrollable_content_region.width - self._row_width() - columns - 1
        return max(MIN_CELL, min(MAX_CELL, room // max(1, columns)))

    def _row_width(self) -> int:
        if self.matrix is None:
            return 0
        titles = [" · ".join(self.matrix.row_axes), *(_label(key) for key in self.matrix.row_keys)]
        return min(max((len(title) for title in titles), default=0), 26) + 2

    def move(self, rows: int = 0, columns: int = 0) -> None:
        """Move the cursor, stopping at the ends."""
        if self.matrix is None:
            return
        self.row = max(0, min(len(self.matrix.row_keys) - 1, self.row + rows))
        self.column = max(0, min(len(self.matrix.column_keys) - 1, self.column + columns))
        self._show_cursor()
        self.refresh()
        self.post_message(self.Moved())

    def move_to(self, index: int) -> None:
        """Put the cursor on a row by its place."""
        self.move(rows=index - self.row)

    def _show_cursor(self) -> None:
        region = self.scrollable_content_region
        top, left = HEADER + self.row * self.row_height, self._row_width() + self.column * (self.cell_width + 1)
        y = min(max(self.scroll_y, top + self.row_height - region.height + 1), top - HEADER)
        x = min(max(self.scroll_x, left + self.cell_width - region.width + 1), max(0, left - self._row_width()))
        self.scroll_to(x=x, y=y, animate=False, immediate=True)

    def render_line(self, y: int) -> Strip:
        """Paint a line: the axes' titles, the columns' labels, or a third of a row of cells."""
        palette = palette_of(self.app.theme)
        width = self.scrollable_content_region.width
        ground = style(palette.text, palette.background)
        if self.matrix is None:
            return Strip.blank(width, ground)
        if y < HEADER:
            return self._header(y, palette).crop_extend(0, width, ground)
        row, line = divmod(y - HEADER + round(self.scroll_y), self.row_height)
        if row >= len(self.matrix.row_keys):
            return Strip.blank(width, ground)
        return self._row(row, line, palette).crop_extend(0, width, ground)

    def _columns(self) -> Sequence[tuple[int, Key]]:
        assert self.matrix is not None
        first = round(self.scroll_x) // (self.cell_width + 1)
        return list(enumerate(self.matrix.column_keys))[first:]

    def _header(self, line: int, palette: Palette) -> Strip:
        matrix = self.matrix
        assert matrix is not None
        left = self._row_width()
        ink, faint = style(palette.muted, palette.background), style(palette.accent, palette.background, bold=True)
        if line == 0:
            title = " · ".join(matrix.column_axes)
            return Strip([Segment(" " * left, ink), Segment(title, ink)])
        segments = [Segment(fit(" " + " · ".join(matrix.row_axes), left), ink)]
        for _, key in self._columns():
            segments.append(Segment(fit(_label(key) or matrix.metric, self.cell_width, "right"), faint))
            segments.append(Segment(" ", ink))
        return Strip(segments)

    def _row(self, row: int, line: int, palette: Palette) -> Strip:
        matrix = self.matrix
        assert matrix is not None
        key, left = matrix.row_keys[row], self._row_width()
        ground = style(palette.text, palette.background)
        label = " " + _label(key) if line == 0 else ""
        segments = [Segment(fit(label, left), style(palette.accent, palette.background, bold=True))]
        for column, column_key in self._columns():
            here = row == self.row and column == self.column
            background = (
                (palette.cursor if self.active else palette.panel)
                if here and line < self.row_height - 1
                else palette.background
            )
            pieces = self._pieces((key, column_key), line, palette)
            used = sum(len(text) for text, _ in pieces)
            pad = " " * max(0, self.cell_width - used)
            marked = (key, column_key) in self.marks
            if (here or marked) and line == 0 and pad:
                pad = ("●" if marked else "›") + pad[1:]
            segments.append(Segment(pad, style(palette.best if marked else palette.accent, background, bold=True)))
            left_over = self.cell_width
            for text, color in pieces:
                cut = fit(text, min(len(text), left_over))
                left_over -= len(cut)
                bold = (key, column_key) in matrix.best and line == 0
                segments.append(Segment(cut, style(color or palette.text, background, bold=bold)))
            segments.append(Segment(" ", ground))
        return Strip(segments)

    def _pieces(self, key: CellKey, line: int, palette: Palette) -> Sequence[Piece]:
        assert self.matrix is not None
        writer = CellWriter(self.matrix, self._judge, self.quoted, self.cell_width, palette)
        return writer.pieces(key, line) if line < self.row_height - 1 else ()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on a clicked cell; a double click opens it."""
        if self.matrix is None or event.y < HEADER:
            return
        row = (event.y - HEADER + round(self.scroll_y)) // self.row_height
        columns = self._columns()
        place = (event.x - self._row_width()) // (self.cell_width + 1)
        if 0 <= place < len(columns) and row < len(self.matrix.row_keys):
            self.move(rows=row - self.row, columns=columns[place][0] - self.column)
            if event.chain == 2:
                self.post_message(self.Opened())


def _compared(matrix: Matrix) -> tuple[CellKey | None, dict[CellKey, dict[int, float]]]:
    """Return what the test of significance looks at."""
    return matrix.baseline, {key: cell.values_by_seed for key, cell in matrix.cells.items()}


def _label(key: Key) -> str:
    return " · ".join(key)
