"""The columns of the run table: which, in what order, how wide. All is remembered."""

from __future__ import annotations

from tui.screens.base import LabScreen
from tui.widgets.run_table import RunTable


class ColumnActions(LabScreen):
    """A screen with the run table."""

    @property
    def table(self) -> RunTable:
        """The table."""
        raise NotImplementedError

    def apply_filter(self) -> None:
        """Show the runs anew."""

    def do_columns(self) -> None:
        """Choose the columns."""
        from tui.screens.columns import ColumnsScreen

        def chosen(columns: list[str] | None) -> None:
            if columns:
                self.lab.settings.columns = columns
                self._columns_changed()

        self.lab.push_screen(ColumnsScreen(self.snapshot, self.lab.settings.columns), chosen)

    def _columns_changed(self) -> None:
        self.table.rebuild()
        self.apply_filter()
        self.lab.save_settings()

    def do_move_left(self) -> None:
        """Move the column under the cursor to the left."""
        self._move_column(-1)

    def do_move_right(self) -> None:
        """Move the column under the cursor to the right."""
        self._move_column(1)

    def _move_column(self, by: int) -> None:
        columns, at = self.lab.settings.columns, self.table.column
        if 0 <= at + by < len(columns):
            columns[at], columns[at + by] = columns[at + by], columns[at]
            self._columns_changed()
            self.table.move(columns=by)

    def do_narrower(self) -> None:
        """Make the column under the cursor narrower."""
        self._resize_column(-2)

    def do_wider(self) -> None:
        """Make the column under the cursor wider."""
        self._resize_column(2)

    def _resize_column(self, by: int) -> None:
        column = self.table.columns[self.table.column]
        self.lab.settings.widths[column.key] = max(3, min(80, column.width + by))
        self._columns_changed()
