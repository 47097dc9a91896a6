"""The table of runs, and the columns it can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from storage.rows import RunRow
from tui.cells import cells, fit, without_folders
from tui.format import bar, count_label, duration, number, plain
from tui.messages import Snapshot
from tui.progress import PROBE, deciding_metric, eta_of, is_silent, share_of
from tui.settings import Settings
from tui.theme import STATUS_GLYPHS, Palette
from tui.widgets.column import Column, Piece
from tui.widgets.order import Section
from tui.widgets.run_groups import head_pieces, summarise
from tui.widgets.sparkline import sparkline
from tui.widgets.table import VirtualTable

RunColumn = Column[RunRow]
SPARK_WIDTH = 8
STATUS_ORDER = {"running": 0, "queued": 1, "failed": 2, "cancelled": 3, "completed": 4}


def _text(key: str, title: str, width: int, get: Callable[[RunRow], str]) -> RunColumn:
    def paint(run: RunRow, _now: float, _palette: Palette, _width: int) -> Sequence[Piece]:
        return ((get(run), ""),)

    return Column(key, title, width, get, paint)


def _number(
    key: str,
    title: str,
    width: int,
    get: Callable[[RunRow], float | None],
    show: Callable[[float | None], str] = number,
) -> RunColumn:
    def paint(run: RunRow, _now: float, _palette: Palette, _width: int) -> Sequence[Piece]:
        return ((show(get(run)), ""),)

    return Column(key, title, width, get, paint, align="right", descending=True)


def _paint_id(run: RunRow, _now: float, palette: Palette, width: int) -> Sequence[Piece]:
    return ((run.id[:width], palette.muted),)


def _name_value(run: RunRow) -> tuple[str, int, int]:
    return (run.ablation or run.name, run.trial_index, run.seed)


def _name_parts(run: RunRow) -> tuple[str, str]:
    label = (run.trial_label or run.name) if run.ablation_id else run.name
    return label, f" s{run.seed}"


def _paint_name(run: RunRow, _now: float, palette: Palette, width: int) -> Sequence[Piece]:
    label, seed = _name_parts(run)
    return ((fit(label, min(cells(label), width - len(seed))), ""), (seed, palette.muted))


def _paint_status(run: RunRow, now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    if is_silent(run, now):
        return (("! silent", palette.warning),)
    return ((f"{STATUS_GLYPHS.get(run.status, '?')} {run.status}", palette.statuses.get(run.status, "")),)


def _paint_progress(run: RunRow, _now: float, palette: Palette, width: int) -> Sequence[Piece]:
    share = share_of(run)
    color = palette.statuses.get(run.status, palette.muted)
    filled, rest = bar(share, width - 5)
    return ((filled, color), (rest, palette.faint), (f" {min(share, 1.0):>4.0%}", palette.muted))


def _paint_age(run: RunRow, now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    return ((duration(now - run.created_at), palette.muted),)


def _paint_eta(run: RunRow, now: float, _palette: Palette, _width: int) -> Sequence[Piece]:
    return ((duration(eta_of(run, now)), ""),)


def _paint_step(run: RunRow, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
    total = f"/{count_label(run.total_steps)}" if run.total_steps else ""
    return ((count_label(run.step), ""), (total, palette.muted))


def _paint_ablation(run: RunRow, _now: float, palette: Palette, width: int) -> Sequence[Piece]:
    return ((without_folders(run.ablation or "", width), palette.muted),)


def _trouble(run: RunRow) -> str:
    return run.error or (run.reason if run.reason and run.status != "completed" else "") or ""


def _eta_value(run: RunRow) -> float | None:
    if run.status != "running" or not run.total_steps:
        return None
    return float(run.total_steps - run.step)


BASE: tuple[RunColumn, ...] = (
    Column("id", "id", 5, lambda run: run.id, _paint_id),
    Column("name", "run", 14, _name_value, _paint_name, flexible=True),
    Column("status", "status", 11, lambda run: STATUS_ORDER.get(run.status, 9), _paint_status),
    Column("progress", "progress", 9, share_of,
           _paint_progress, descending=True),
    Column("eta", "eta", 5, _eta_value, _paint_eta, align="right"),
    Column("age", "age", 5, lambda run: -run.created_at, _paint_age, align="right"),
    Column("step", "step", 10, lambda run: run.step, _paint_step, align="right", descending=True),
    _number("seed", "seed", 4, lambda run: run.seed, lambda value: plain(int(value or 0))),
    Column("ablation", "ablation", 12, lambda run: run.ablation or "", _paint_ablation),
    _text("trial", "trial", 22, lambda run: run.trial_label),
    _text("tags", "tags", 12, lambda run: " ".join(run.tags)),
    _number("duration", "took", 6, lambda run: run.duration_s, duration),
    _number("attempt", "try", 3, lambda run: run.attempt),
    _number("priority", "prio", 4, lambda run: run.priority),
    _text("error", "error", 30, _trouble),
)  # fmt: skip
BASE_KEYS = (*(column.key for column in BASE), "metric")


class RunTable(VirtualTable[RunRow]):
    """Runs in the columns that the user chose."""

    def __init__(self, settings: Settings, *, now: Callable[[], float], id: str | None = None) -> None:
        self.settings = settings
        self.sparks: Mapping[str, tuple[float, ...]] = {}
        self.by_ablation: dict[str, str] = {}
        self.group_name = ""
        self._summaries: dict[str, tuple[Section[RunRow], Counter[str], dict[str, str]]] = {}
        self.shared_metric = ""
        super().__init__([], lambda run: run.id, now=now, id=id)
        self.sort_key, self.descending = settings.sort, settings.descending
        self.rebuild()

    def rebuild(self) -> None:
        """Make the columns anew from the settings."""
        made = [self.make(key) for key in self.settings.columns]
        self.set_columns([replace(column, width=self.settings.widths.get(column.key, column.width)) for column in made])

    def make(self, key: str) -> RunColumn:
        """Return the column of a key: a built-in one, `metrics/NAME`, or `config/KEY`."""
        if key == "metric":
            return self._deciding_column()
        kind, _, name = key.partition(":")
        if kind == "metrics":
            title = name.removeprefix("train/").removeprefix("valid/") if len(name) > 12 else name
            return replace(_number(key, title, 9, lambda run: run.metrics.get(name)), descending=True)
        if kind == "config":
            title = name.rpartition(".")[2]
            column = _text(key, title, max(6, min(12, len(title))), lambda run: plain(run.config.get(name, "")))
            return replace(column, value=lambda run: _sortable(run.config.get(name)))
        return next((column for column in BASE if column.key == key), BASE[0])

    def learn(self, snapshot: Snapshot) -> None:
        """Take over what the ablations decide by."""
        known = {row.id: row.metric for row in snapshot.ablations}
        if known != self.by_ablation:
            self.by_ablation = known
            self._summaries.clear()
            self.forget_order()

    def metric_of(self, run: RunRow) -> str:
        """Return the metric that decides a run."""
        return deciding_metric(run, self.by_ablation)

    def show_runs(self, runs: Sequence[RunRow]) -> None:
        """Show these runs. The metric's column is titled by the metric where all in view share one."""
        seen = {self.metric_of(run) for run in runs[:200]} - {""}
        shared = next(iter(seen)) if len(seen) == 1 else ""
        if shared != self.shared_metric:
            self.shared_metric = shared
            self.rebuild()
        self.wanted["name"] = max((sum(cells(text) for text in _name_parts(run)) for run in runs[:200]), default=0)
        self.set_rows(runs)

    def visible_runs(self) -> list[RunRow]:
        """Return the runs in view."""
        top = round(self.scroll_y)
        lines = (self.sections.at(line) for line in range(top, top + self.page))
        return [self.rows[index] for section, index in lines if section is None and index < len(self.rows)]

    def group_by(self, name: str, value_of: Callable[[RunRow], Any] | None) -> None:
        """Group the runs by a value, which the heads call by this name; None ends it."""
        self.group_name, self.group_of = name, value_of
        self._summaries.clear()

    def head(self, section: Section[RunRow], palette: Palette) -> Sequence[Piece]:
        """Return what the group has in common and how its runs do, worked out once as long as they stay the same."""
        of, counts, means = self._summaries.get(section.title, (None, Counter(), {}))
        if of is not section:
            counts, means = summarise(section.rows, self.metric_of)
            self._summaries[section.title] = section, counts, means
        return head_pieces(f"{self.group_name} = {section.title or 'none'}", counts, means, palette)

    def _deciding_column(self) -> RunColumn:
        def value(run: RunRow) -> float | None:
            return run.metrics.get(self.metric_of(run))

        def paint(run: RunRow, _now: float, palette: Palette, _width: int) -> Sequence[Piece]:
            key = self.metric_of(run)
            curve = sparkline(self.sparks.get(run.id, ()), SPARK_WIDTH)
            number_text = number(run.metrics.get(key)).rjust(7)
            pieces = [(number_text, ""), (f" {curve} ", palette.accent if run.status == "running" else palette.muted)]
            return pieces if self.shared_metric else [*pieces, (key.rpartition("/")[2], palette.muted)]

        title = self.shared_metric or "metric"
        return Column("metric", title, 17 if self.shared_metric else 26, value, paint, descending=True)


def _sortable(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, int | float | str):
        return value
    return plain(value)


def available_columns(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return (key, description) of every column that can be shown."""
    listed = [(key, "run") for key in BASE_KEYS]
    listed += [(f"metrics:{name}", "metric") for name in sorted(snapshot.fields.metrics) if not name.startswith(PROBE)]
    return listed + [(f"config:{key}", "config") for key in sorted(snapshot.fields.config)]
