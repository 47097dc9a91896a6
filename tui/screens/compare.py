"""Several runs over one another: curves in groups with mean and spread, what differs, and what is unfair about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical

from storage.rows import RunRow
from tui.charts import TOKENS, compared_charts
from tui.comparison import difference_lines, grouped, grouped_by, warnings
from tui.curve_cache import Curve
from tui.filter_terms import groupings
from tui.keys import Situation, bindings
from tui.messages import Snapshot
from tui.progress import deciding_metric
from tui.screens.base import Mover
from tui.screens.curve_actions import CurveActions
from tui.source import Interest
from tui.widgets.chart import letter_of
from tui.widgets.curves import Curves
from tui.widgets.status_bar import TextBar
from tui.widgets.text_view import TextView


class CompareScreen(CurveActions):
    """Curves above, differences below."""

    SCOPE = "compare"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("compare")]

    def __init__(self, run_ids: Sequence[str]) -> None:
        super().__init__()
        self.run_ids = list(run_ids)
        self.groups: dict[str, list[RunRow]] = {}
        self.group_name = ""
        self._read_field: Callable[[RunRow], object] | None = None  # by trial
        self.banded = True
        self.show_differences = False
        self._read: Mapping[str, Mapping[str, Curve]] = {}

    def body(self) -> ComposeResult:
        """Yield the legend, the warnings, the curves and the differences."""
        yield TextBar(id="legend")
        yield TextBar(id="unfair")
        with Vertical(id="main"):
            yield Curves(id="curves")
            yield TextView(id="differences", wrap=False)

    def begin(self) -> None:
        """Start with the curves."""
        self.curves.view = self.remembered()
        self.query_one("#differences").display = False

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Compare", f"{len(self.run_ids)} runs in {len(self.groups)} groups"]

    def mover(self) -> Mover:
        """Keys move among the charts, or in the differences while those are shown alone."""
        return self.query_one("#differences", TextView) if self.show_differences else self.curves

    def situation(self) -> Situation:
        """Return what the keys act on."""
        return Situation(tab="curves", comparable=len(self.run_ids))

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Group the runs anew."""
        wanted = set(self.run_ids)
        runs = sorted((run for run in snapshot.runs if run.id in wanted), key=lambda run: (run.trial_index, run.seed))
        self.groups = grouped(runs) if self._read_field is None else grouped_by(runs, self.group_name, self._read_field)
        self.watch_store(Interest(curves=tuple(run.id for run in runs), parameters=tuple(self.run_ids)))
        self._show_words()
        super().show_snapshot(snapshot)

    def _show_words(self) -> None:
        legend = [(" ", "")]
        for index, (name, runs) in enumerate(self.groups.items()):
            sign = letter_of(f"series:{index}") if self.lab.no_color else "━━"
            legend += [(f"{sign} ", f"series:{index}"), (f"{name} ({len(runs)})   ", "")]
        self.query_one("#legend", TextBar).show(*legend)
        found = warnings(self.groups, self.lab.parameters)
        unfair = self.query_one("#unfair", TextBar)
        if found:
            unfair.show((" ! not like with like: ", "warning"), (" · ".join(found), "warning"))
        else:
            unfair.show((" like with like: steps, tokens, parameters and seeds agree", "good"))
        self.query_one("#differences", TextView).show(difference_lines(self.groups))

    def show_curves(self, curves: Mapping[str, Mapping[str, Curve]], *, complete: bool) -> None:
        """Draw the curves."""
        if set(curves) <= set(self.run_ids):
            self._read = curves
            if complete and not any(curves.values()):
                self.curves.message = "none of these runs has logged anything yet"
            self.draw_curves()
            self._show_words()

    def show_parameters(self) -> None:
        """Say what the models' sizes mean for the comparison."""
        self._show_words()

    def draw_curves(self) -> None:
        """Make the charts anew."""
        tokens = any(TOKENS in curves for curves in self._read.values())
        self.x_kinds = ("step", *(("tokens",) if tokens else ()), "time")
        by_ablation = {row.id: row.metric for row in self.snapshot.ablations}
        first = next((runs[0] for runs in self.groups.values()), None)
        groups = {
            name: [(f"{name} s{run.seed}", self._read[run.id]) for run in runs if run.id in self._read]
            for name, runs in self.groups.items()
        }
        self.curves.show(
            compared_charts(
                groups,
                deciding=deciding_metric(first, by_ablation) if first else "",
                kind=self.curves.view.x_kind,
                banded=self.banded,
            )
        )

    def do_open(self) -> None:
        """Enlarge a chart, or show all."""
        self.curves.enlarge()

    def do_group(self) -> None:
        """Show means with their spread, or each run."""
        self.banded = not self.banded
        self.draw_curves()

    def do_group_by(self) -> None:
        """Ask for a field, and group by it."""
        from tui.screens.grouping import ask_for_grouping

        ask_for_grouping(self.lab, self.group_name, self._group)

    def take_group_by(self, text: str) -> None:
        """Group by a field."""
        from tui.screens.grouping import group_by

        group_by(self.lab, text, self._group)

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        return groupings(self.snapshot.fields) if name == "group_by" else super().choices(name)

    def _group(self, name: str, read: Callable[[RunRow], object] | None) -> None:
        self.group_name, self._read_field = name, read
        self.show_snapshot(self.snapshot)
        self.draw_curves()

    def note(self) -> str:
        """Return what the groups are by, where not by trial."""
        return f"by {self.group_name}" if self.group_name else ""

    def do_differences(self) -> None:
        """Show what differs, or the curves alone."""
        self.show_differences = not self.show_differences
        self.query_one("#differences").display = self.show_differences

    def do_back(self) -> None:
        """Leave the differences, the view's layers, then the screen."""
        if self.show_differences:
            self.do_differences()
        elif not self.leave_curves():
            super().do_back()
