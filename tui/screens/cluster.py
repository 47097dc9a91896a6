"""The cluster: machines and GPUs with who holds them, the queue with why it waits, and how the controller is."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from storage.cluster import ClusterRow, Standing, standing
from storage.rows import RunRow
from tui.cluster import WAYS_OUT, empty_cluster_lines, load_pieces, standing_pieces
from tui.keys import Situation, bindings
from tui.messages import UNREADABLE, Snapshot, StoreState
from tui.screens.control import ControlScreen
from tui.screens.empty import empty_lines
from tui.source import Interest
from tui.widgets.cluster_table import ClusterTable
from tui.widgets.status_bar import TextBar
from tui.widgets.table import VirtualTable
from tui.widgets.text_view import TextView

WIDE = 100


class ClusterScreen(ControlScreen):
    """Everything that the controller last said, and who is behind it."""

    SCOPE = "cluster"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("cluster")]

    def __init__(self) -> None:
        super().__init__()
        self.row: ClusterRow | None = None
        self.pid: int | None = None
        self._told = False  # whether the source has said what it knows

    def body(self) -> ComposeResult:
        """Yield how things are, what is in use, the table, and what to do where something is wrong."""
        yield TextBar(id="standing")
        yield TextBar(id="load")
        yield ClusterTable(now=self.lab.now, id="cluster")
        yield TextView(id="empty")
        yield TextBar(id="advice")

    @property
    def table(self) -> ClusterTable:
        """The table."""
        return self.query_one(ClusterTable)

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Cluster"]

    def mover(self) -> ClusterTable:
        """Keys move in the table."""
        return self.table

    def targets(self) -> list[RunRow]:
        """Return the run under the cursor."""
        line = self.table.selected
        run = self.snapshot.run(line.run_id) if line is not None and line.run_id else None
        return [] if run is None or self.row is None else [run]

    def situation(self) -> Situation:
        """Return what the keys act on."""
        runs = self.targets()
        return Situation(
            targets=tuple(run.status for run in runs),
            has_ablation=bool(runs and runs[0].ablation_id),
            **self.lab.writable(),
        )

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show the runs as they are now."""
        self.watch_store(Interest(cluster=True))
        self._show()
        super().show_snapshot(snapshot)

    def show_cluster(self, row: ClusterRow | None, pid: int | None) -> None:
        """Show what the controller said."""
        self.row, self.pid, self._told = row, pid, True
        self._show()
        self.show_bars()

    def tick(self) -> None:
        """Go on with the ages: a controller that says nothing is noticed by them."""
        self._show()

    def _show(self) -> None:
        if not self.ready:
            return
        now, snapshot = self.lab.now(), self.snapshot
        kind, words = standing(self.row, self.pid, now)
        unreadable = snapshot.state in (*UNREADABLE, StoreState.LOADING)
        row = None if unreadable else self.row
        self.set_class(row is None, "-empty")
        if row is None:
            known = self._told and not unreadable
            lines = empty_cluster_lines(kind, words) if known else empty_lines(snapshot, self.lab.home_name)
            self.query_one("#empty", TextView).show(lines)
            self.query_one("#standing", TextBar).show(*(standing_pieces(None, kind, words, now) if known else ()))
            self.query_one("#load", TextBar).show()
        else:
            self.query_one("#standing", TextBar).show(*standing_pieces(row, kind, words, now))
            self.query_one("#load", TextBar).show(*load_pieces(row, 14 if self.size.width >= WIDE else 6))
            self.table.show(row, {run.id: run for run in snapshot.runs})
        self._advise(kind if row is not None else Standing.NONE)

    def _advise(self, kind: Standing) -> None:
        advice = WAYS_OUT.get(kind, "")
        if kind is Standing.DOWN and self.row is not None:
            joined = bool(self.row.controller.get("address"))
            advice = "runs wait until it answers again" if joined else "a head of its own is started anew by itself"
        if kind is Standing.ENDED and not self.snapshot.unfinished:
            advice = "nothing waits; the next submission starts another one"
        bar = self.query_one("#advice", TextBar)
        bar.display = bool(advice)
        bar.show((f" {advice}", "muted"))

    def on_virtual_table_moved(self, _message: VirtualTable.Moved) -> None:
        """Offer what can be done with the run under the cursor."""
        self.show_bars()

    def on_virtual_table_opened(self, _message: VirtualTable.Opened) -> None:
        """Open what was clicked twice."""
        self.do_open()

    def do_open(self) -> None:
        """Open the run under the cursor."""
        runs = self.targets()
        if runs:
            from tui.screens.run import RunScreen

            listed = [line.run_id for line in self.table.rows if line.run_id]
            self.lab.push_screen(RunScreen(runs[0].id, list(dict.fromkeys(listed))))

    def do_ablation(self) -> None:
        """Open the run's ablation."""
        runs = self.targets()
        if runs and runs[0].ablation_id is not None:
            from tui.screens.ablation import AblationScreen

            self.lab.push_screen(AblationScreen(runs[0].ablation_id))
