"""The keys that move: they go to whatever the screen has that can be moved in."""

from __future__ import annotations

from typing import Protocol


class Mover(Protocol):
    """What the movement keys move: a table, a matrix, text, charts."""

    @property
    def page(self) -> int: ...
    def move(self, rows: int = 0, columns: int = 0) -> None: ...
    def move_to(self, index: int) -> None: ...


class Moving:
    """Hands the movement keys on to the screen's mover."""

    def mover(self) -> Mover | None:
        """Return what the movement keys move."""
        return None

    def do_down(self) -> None:
        """Move down."""
        self._move(rows=1)

    def do_up(self) -> None:
        """Move up."""
        self._move(rows=-1)

    def do_left(self) -> None:
        """Move left."""
        self._move(columns=-1)

    def do_right(self) -> None:
        """Move right."""
        self._move(columns=1)

    def do_page_down(self) -> None:
        """Move a page down."""
        if mover := self.mover():
            self._move(rows=max(1, mover.page - 1))

    def do_page_up(self) -> None:
        """Move a page up."""
        if mover := self.mover():
            self._move(rows=-max(1, mover.page - 1))

    def do_top(self) -> None:
        """Go to the first row."""
        if mover := self.mover():
            mover.move_to(0)

    def do_bottom(self) -> None:
        """Go to the last row."""
        if mover := self.mover():
            mover.move_to(10**9)

    def _move(self, rows: int = 0, columns: int = 0) -> None:
        if mover := self.mover():
            mover.move(rows=rows, columns=columns)
