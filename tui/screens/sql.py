"""A console for SQL that can only read, with the queries of before and the answer as a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from storage.encoding import visible
from storage.errors import StorageError
from storage.home import HomePaths
from storage.sql import QueryResult, run_query
from tui.cells import cells, fit
from tui.format import number
from tui.keys import bindings
from tui.messages import Snapshot
from tui.screens.sorting import SortActions
from tui.source import Interest
from tui.theme import Palette
from tui.widgets.column import Column, Piece
from tui.widgets.status_bar import TextBar
from tui.widgets.table import VirtualTable

MAX_ROWS = 10_000
KEPT_QUERIES = 100
FIRST = "SELECT * FROM v_runs ORDER BY num DESC LIMIT 100"
SqlRow = tuple[int, tuple[Any, ...]]  # its place in the answer, and its values


@dataclass
class Answered(Message):
    """A query has an answer, or an error."""

    query: str
    result: QueryResult | None
    error: str
    seconds: float


class QueryInput(Input):
    """The field; up and down go through the queries of before."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "history(-1)", "older", show=False),
        Binding("down", "history(1)", "newer", show=False),
    ]

    class History(Message):
        """An older or newer query is asked for."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    def action_history(self, by: int) -> None:
        """Ask for another query."""
        self.post_message(self.History(by))


def sql_columns(result: QueryResult) -> list[Column[SqlRow]]:
    """Return columns as wide as the first rows need."""
    columns = []
    for index, name in enumerate(result.columns):
        texts = [_cell(row[index]) for row in result.rows[:50]]
        width = min(40, max([cells(name) + 1, *(cells(text) for text in texts)]))
        numeric = all(isinstance(row[index], int | float) or row[index] is None for row in result.rows[:50])
        columns.append(_column(index, name, width, "right" if numeric else "left"))
    return columns


def _column(index: int, name: str, width: int, align: str) -> Column[SqlRow]:
    def paint(row: SqlRow, _now: float, palette: Palette, cell_width: int) -> Sequence[Piece]:
        value = row[1][index]
        return ((fit(_cell(value), min(cells(_cell(value)), cell_width)), palette.faint if value is None else ""),)

    return Column(f"{index}", name, width, lambda row: row[1][index], paint, align=align)


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.10g}" if 1e6 <= abs(value) < 1e10 else number(value, 6)  # times in seconds keep their digits
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return visible(str(value))


class SqlScreen(SortActions):
    """The field above, the answer below."""

    SCOPE = "sql"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("sql")]

    def __init__(self, query: str = "") -> None:
        """Show the console; with a query, ask that at once."""
        super().__init__()
        self.place = 0
        self.running = ""
        self.stopped = Event()  # set: the query that runs now is given up
        self.first = query

    def body(self) -> ComposeResult:
        """Yield the field, what came of it, and the table."""
        yield QueryInput(FIRST, select_on_focus=False, compact=True, id="query")
        yield TextBar(id="outcome")
        yield VirtualTable([], lambda row: str(row[0]), now=time.time, id="answer")

    @property
    def table(self) -> VirtualTable[SqlRow]:
        """The answer."""
        return self.query_one("#answer", VirtualTable)

    @property
    def field(self) -> QueryInput:
        """The field."""
        return self.query_one(QueryInput)

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["SQL"]

    def note(self) -> str:
        """Return what helps to begin."""
        return "v_runs v_metrics v_latest v_ablation"

    def mover(self) -> VirtualTable[SqlRow]:
        """Keys move in the answer."""
        return self.table

    def begin(self) -> None:
        """Start in the field with the last query."""
        history = self.lab.settings.queries
        if history:
            self.field.value = history[-1]
        self.place = len(history)
        self.field.focus()
        outcome = "enter runs it, up and down go through history; only reading is possible"
        self.query_one("#outcome", TextBar).show((f" {outcome}", "muted"))
        if self.first:
            self.field.value = self.first
            self.ask(self.first)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Ask for nothing beside the lists."""
        self.watch_store(Interest())
        super().show_snapshot(snapshot)

    def on_query_input_history(self, message: QueryInput.History) -> None:
        """Show an older or newer query."""
        history = self.lab.settings.queries
        if history:
            self.place = max(0, min(len(history), self.place + message.by))
            self.field.value = history[self.place] if self.place < len(history) else ""
            self.field.cursor_position = len(self.field.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Run the query."""
        event.stop()
        self.ask(event.value)

    def ask(self, text: str) -> None:
        """Run a query on a thread, and keep it for later."""
        query = text.strip().rstrip(";")
        if not query:
            return
        history = self.lab.settings.queries
        if not history or history[-1] != query:
            history.append(query)
            del history[:-KEPT_QUERIES]
            self.lab.save_settings()
        self.place = len(history)
        self.stopped.set()
        self.running, self.stopped = query, Event()
        self.query_one("#outcome", TextBar).show((" running ...", "muted"), ("   esc stops it", "muted"))
        paths, stopped = self.lab.paths, self.stopped.is_set
        self.run_worker(lambda: self.post_message(ask(paths, query, self.lab.now, stopped)), thread=True, exclusive=True,
                        group="sql", exit_on_error=False)  # fmt: skip

    def on_answered(self, message: Answered) -> None:
        """Show the answer to the newest query."""
        if message.query != self.running:
            return
        self.running = ""
        outcome = self.query_one("#outcome", TextBar)
        self.lab.log_command("query", self.lab.command("query", message.query), message.error)
        if message.result is None:
            outcome.show((f" {message.error}", "bad"))
            return
        result = message.result
        more = f", only the first {MAX_ROWS} are shown" if result.truncated else ""
        outcome.show((f" {len(result.rows)} rows in {message.seconds * 1000:.0f} ms{more}", "good"),
                     ("   esc leaves the field", "muted"))  # fmt: skip
        self.table.sort_key = ""
        self.table.set_columns(sql_columns(result))
        self.table.set_rows(list(enumerate(result.rows)))
        self.table.move_to(0)

    def on_unmount(self) -> None:
        """Give up the query that runs: the application could not end before it."""
        self.stopped.set()

    def do_open(self) -> None:
        """Go back to the field."""
        self.field.focus()

    def do_back(self) -> None:
        """Stop the query that runs, leave the field, then the screen."""
        if self.running:
            self.stopped.set()
        elif self.focused is not None and self.table.rows:
            self.set_focus(None)
        else:
            super().do_back()


def ask(
    paths: HomePaths, query: str, clock: Callable[[], float], stopped: Callable[[], bool] = lambda: False
) -> Answered:
    """Run a query and return what came of it."""
    began = clock()
    try:
        result = run_query(paths, query, limit=MAX_ROWS, stopped=stopped)
    except StorageError as error:
        return Answered(query, None, str(error), clock() - began)
    return Answered(query, result, "", clock() - began)
