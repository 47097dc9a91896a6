"""The actions of screens whose table can be sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tui.screens.base import LabScreen
from tui.widgets.table import VirtualTable


class SortActions(LabScreen):
    """A screen with one table."""

    @property
    def table(self) -> VirtualTable[Any]:
        """The table."""
        raise NotImplementedError

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        return [column.title for column in self.table.columns] if name == "sort" else super().choices(name)

    def do_sort(self) -> None:
        """Sort by the column under the cursor."""
        if self.table.columns:
            self.table.sort_by(self.table.columns[self.table.column].key)

    def take_sort(self, name: str) -> None:
        """Sort by a column that is shown, by its title."""
        found = [column for column in self.table.columns if name in (column.title, column.key)]
        if not found:
            raise ValueError(f"no column is called {name!r}; there are {', '.join(self.choices('sort'))}")
        self.table.sort_by(found[0].key)

    def do_reverse(self) -> None:
        """Turn the order round."""
        if self.table.columns:
            self.table.sort_by(self.table.sort_key or self.table.columns[self.table.column].key)
