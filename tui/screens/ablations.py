"""All ablations: what was asked, how far they are, and what decides them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from storage.rows import AblationRow
from tui.format import bar, duration
from tui.keys import Situation, bindings
from tui.messages import Snapshot
from tui.screens.empty import empty_lines
from tui.screens.queueing import add_seeds, ask_for_seeds
from tui.screens.sorting import SortActions
from tui.source import Interest
from tui.theme import STATUS_GLYPHS, Palette
from tui.widgets.column import Column, Piece
from tui.widgets.status_bar import TextBar
from tui.widgets.table import VirtualTable
from tui.widgets.text_view import TextView

AblationColumn = Column[AblationRow]


def _plain(key: str, title: str, width: int, name: str, *, flexible: bool = False) -> AblationColumn:
    def paint(row: AblationRow, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
        return ((str(getattr(row, name)), palette.muted if key != "name" else ""),)

    return Column(key, title, width, lambda row: getattr(row, name), paint, flexible=flexible)


def _progress(row: AblationRow, _now: float, palette: Palette, width: int) -> Sequence[Piece]:
    filled, rest = bar(row.progress, width - 5)
    color = palette.statuses["completed" if row.progress >= 1 else "running"]
    return ((filled, color), (rest, palette.faint), (f" {row.progress:>4.0%}", palette.muted))


def _counts(row: AblationRow, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    return [(f"{STATUS_GLYPHS[status]}{count} ", palette.statuses[status]) for status, count in row.counts.items()]


def _age(row: AblationRow, now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    return ((duration(now - row.created_at), palette.muted),)


COLUMNS: tuple[AblationColumn, ...] = (
    _plain("name", "ablation", 22, "name"),
    Column("progress", "progress", 10, lambda row: row.progress, _progress, descending=True),
    Column("runs", "runs", 14, lambda row: row.runs_total, _counts, descending=True),
    _plain("metric", "metric", 15, "metric"),
    Column("age", "age", 5, lambda row: -row.created_at, _age, align="right"),
    _plain("question", "question", 20, "question", flexible=True),
    _plain("id", "id", 10, "id"),
)  # fmt: skip


class AblationsScreen(SortActions):
    """The table of ablations."""

    SCOPE = "ablations"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("ablations")]

    def body(self) -> ComposeResult:
        """Yield the table, and the question of the one under the cursor."""
        yield VirtualTable(COLUMNS, lambda row: row.id, now=self.lab.now, id="ablations")
        yield TextBar(id="question")
        yield TextView(id="empty")

    @property
    def table(self) -> VirtualTable[AblationRow]:
        """The table."""
        return self.query_one("#ablations", VirtualTable)

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Ablations"]

    def mover(self) -> VirtualTable[AblationRow]:
        """Keys move in the table."""
        return self.table

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show the ablations."""
        self.set_class(not snapshot.ablations, "-empty")
        if not snapshot.ablations:
            self.query_one("#empty", TextView).show(empty_lines(snapshot, self.lab.home_name))
        self.table.set_rows(snapshot.ablations)
        self._show_question()
        self.watch_store(Interest())
        super().show_snapshot(snapshot)

    def _show_question(self) -> None:
        row = self.table.selected
        self.query_one("#question", TextBar).show((f" {row.question}" if row else "", "muted"))

    def tick(self) -> None:
        """Go on with the ages."""
        self.table.repaint_changed(all_rows=True)

    def on_virtual_table_moved(self, _message: VirtualTable.Moved) -> None:
        """Show the question."""
        self._show_question()

    def on_virtual_table_opened(self, _message: VirtualTable.Opened) -> None:
        """Open what was clicked twice."""
        self.do_open()

    def do_open(self) -> None:
        """Open the ablation under the cursor."""
        row = self.table.selected
        if row is not None:
            from tui.screens.ablation import AblationScreen

            self.lab.push_screen(AblationScreen(row.id))

    def situation(self) -> Situation:
        """Return what the keys act on."""
        return Situation(has_ablation=self.table.selected is not None, **self.lab.writable())

    def do_add_seeds(self) -> None:
        """Ask for further seeds."""
        if (row := self.table.selected) is not None:
            ask_for_seeds(self.lab, row)

    def take_add_seeds(self, text: str) -> None:
        """Queue further seeds."""
        if (row := self.table.selected) is not None:
            add_seeds(self.lab, row, text)

    def do_copy_id(self) -> None:
        """Copy the id."""
        row = self.table.selected
        self._copy(row.id if row else "")

    def do_copy_command(self) -> None:
        """Copy the command that prints the table."""
        row = self.table.selected
        if row is None:
            self._copy("")
            return
        self._copy(self.lab.command("table", row.id if self.snapshot.shares_its_name(row) else row.name))
