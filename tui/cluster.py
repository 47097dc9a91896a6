"""How the controller and its cluster are, in words: for the lines around the table of machines and queue."""

from __future__ import annotations

from collections.abc import Sequence

from storage.cluster import ClusterRow, Standing
from tui.format import bar, duration
from tui.widgets.text_view import TextLine

WAYS_OUT = {
    Standing.ENDED: "r on a queued run, or `mambalab retry REF`, has the queue worked on again",
    Standing.VANISHED: "its log is controller.log in the store's folder; r on a queued run, or `mambalab retry REF`, goes on",
    Standing.SILENT: "its log is controller.log in the store's folder; `mambalab down` ends it",
}


def standing_pieces(row: ClusterRow | None, kind: Standing, words: str, now: float) -> TextLine:
    """Return the line that says how things are."""
    color = {Standing.LIVE: "good", Standing.STARTING: "accent", Standing.NONE: "muted", Standing.ENDED: "warning"}
    glyph = {Standing.LIVE: "●", Standing.STARTING: "◌", Standing.NONE: "○", Standing.ENDED: "○"}
    pieces = [(f" {glyph.get(kind, '!')} {words}", color.get(kind, "bad"))]
    if row is None:
        return pieces
    who, ago = row.controller, duration(max(0.0, now - row.at))
    pieces.append((f"  heard {ago} ago", "bad" if kind is Standing.SILENT else "muted"))
    if kind in (Standing.LIVE, Standing.DOWN, Standing.SILENT):
        pieces.append((f"  up {duration(now - float(who.get('started_at', now)))}", "muted"))
    where = f" at {row.address}" if row.address else ""
    pieces.append((f"  {who.get('executor')}{where}  process {who.get('pid')} on {who.get('host')}", "muted"))
    return pieces


def load_pieces(row: ClusterRow, bar_width: int) -> TextLine:
    """Return the line that adds up what is in use."""
    pieces: list[tuple[str, str]] = []
    cpus, gpus = sum(machine.cpus for machine in row.machines), sum(machine.gpus for machine in row.machines)
    held = (sum(machine.cpus_held for machine in row.machines), sum(machine.gpus_held for machine in row.machines))
    for name, used, total in (("CPUs", held[0], cpus), ("GPUs", held[1], gpus)):
        if not total:
            pieces.append((f" no {name}  ", "muted"))
            continue
        filled, rest = bar(used / total, bar_width)
        pieces += [
            (f" {name} ", "muted"),
            (filled, "running"),
            (rest, "faint"),
            (f" {used:g} of {total:g}  ", ""),
        ]
    runs = {holding.run_id for machine in row.machines for holding in machine.holdings}
    pieces += [(f" ▶ {len(runs)} at work ", "running"), (f" ○ {row.waiting_total} wait", "queued")]
    if row.waiting_total > len(row.waiting) > 0:
        pieces.append((f", the first {len(row.waiting)} are shown", "muted"))
    return pieces


def empty_cluster_lines(kind: Standing, words: str) -> Sequence[TextLine]:
    """Return what stands in place of the table while nothing was ever said of a cluster."""
    if kind is Standing.STARTING:
        return [[(f"{words[0].upper()}{words[1:]} ...", "muted")]]
    return [[(f"{words[0].upper()}{words[1:]}.", "")], [],
            [("It starts with the first submission and tells what there is and who holds it:", "muted")], [],
            [("    mambalab submit demo", "accent")]]  # fmt: skip
