"""The table of machines, GPUs and the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from storage.cluster import ClusterRow
from storage.rows import RunRow
from tui.cells import cells
from tui.cluster_lines import ClusterLine, cluster_lines, host_use
from tui.theme import STATUS_GLYPHS, Palette
from tui.widgets.column import Column, Piece
from tui.widgets.order import Section
from tui.widgets.table import VirtualTable

FREE = "free"


def _text(key: str, title: str, width: int, *, muted: bool = False, flexible: bool = False) -> Column[ClusterLine]:
    def paint(line: ClusterLine, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
        return ((str(getattr(line, key)), palette.muted if muted else ""),)

    return Column(key, title, width, lambda line: getattr(line, key), paint, flexible=flexible)


def _run(line: ClusterLine, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    if not line.run_id:
        return ((line.title, palette.faint if line.title == FREE else palette.muted),)
    glyph = STATUS_GLYPHS.get(line.status, "?")
    return ((f"{glyph} ", palette.statuses.get(line.status, palette.muted)), (line.title, ""))


def _progress(line: ClusterLine, _now: float, palette: Palette, width: int) -> Sequence[Piece]:
    if line.progress is None:
        return (("", ""),)
    return ((f"{line.progress:>{width}.0%}", palette.muted),)


def _why(line: ClusterLine, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    return ((line.use, ""), (line.why, palette.warning))


COLUMNS: tuple[Column[ClusterLine], ...] = (
    _text("place", "place", 6, muted=True),
    Column("title", "run", 15, lambda line: line.title, _run, flexible=True),
    Column("progress", "", 4, lambda line: line.progress, _progress),
    _text("share", "share", 13, muted=True),
    Column("why", "uses, or waits because", 24, lambda line: line.why, _why, flexible=True),
    _text("run_id", "id", 10, muted=True),
)  # fmt: skip


class ClusterTable(VirtualTable[ClusterLine]):
    """A section for each machine, and one for the queue."""

    def __init__(self, *, now: Callable[[], float], id: str | None = None) -> None:
        super().__init__(COLUMNS, lambda line: line.key, now=now, id=id)
        self.group_of = lambda line: line.section
        self.row: ClusterRow | None = None
        self.runs: Mapping[str, RunRow] = {}

    def show(self, row: ClusterRow, runs: Mapping[str, RunRow]) -> None:
        """Show the cluster. Lines that say the same stay the same objects, so that only others are painted."""
        self.row, self.runs = row, runs
        before = {line.key: line for line in self.rows}
        lines = cluster_lines(row, runs, self.now())
        self.wanted = {
            "title": max((cells(line.title) for line in lines), default=0) + 3,
            "why": max((cells(line.use) + cells(line.why) for line in lines), default=0),
        }
        self.set_rows([known if (known := before.get(line.key)) == line else line for line in lines])
        self.repaint_changed(all_rows=True)

    def head(self, section: Section[ClusterLine], palette: Palette) -> Sequence[Piece]:
        """Return what the line above a machine, or above the queue, says."""
        row = self.row
        number = section.rows[0].section
        if row is None or number >= len(row.machines):
            waiting = row.waiting_total if row is not None else 0
            return ((" queue  ", palette.accent), (f"{waiting} wait", palette.muted))
        machine = row.machines[number]
        gpus = f", {machine.gpus_held:g} of {machine.gpus} GPUs in use" if machine.gpus else " in use, no GPU"
        name = machine.host or machine.name
        return (
            (f" {name}  ", palette.accent),
            (f"{machine.cpus_held:g} of {machine.cpus:g} CPUs{gpus}", palette.text),
            (f"  {host_use(machine, self.runs)}", palette.muted),
        )
