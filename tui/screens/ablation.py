"""One ablation: its question, the living matrix, and the seeds of the cell under the cursor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container

from storage.rows import RunRow
from tui.curve_cache import Curve
from tui.effects import effect_lines, main_effects
from tui.keys import Situation, bindings
from tui.messages import Snapshot
from tui.plot.series import Points
from tui.quoted import quoted
from tui.screens.base import Mover
from tui.screens.matrix_actions import MatrixActions
from tui.source import Interest
from tui.study import progress_pieces
from tui.widgets.chart_data import ChartData, Line
from tui.widgets.curves import Curves
from tui.widgets.matrix import MatrixView
from tui.widgets.run_table import RunTable
from tui.widgets.status_bar import TextBar
from tui.widgets.table import VirtualTable
from tui.widgets.text_view import TextView

SEED_COLUMNS = ("id", "seed", "status", "progress", "metric", "eta", "duration", "attempt", "error")


class AblationScreen(MatrixActions):
    """The matrix above, the seeds or the main effects below."""

    SCOPE = "ablation"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("ablation")]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012 - Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-high")]  # noqa: RUF012 - Textual declares it so

    def __init__(self, ablation_id: str) -> None:
        super().__init__(ablation_id)
        self._read: Mapping[str, Mapping[str, Curve]] = {}

    def body(self) -> ComposeResult:
        """Yield the question, the matrix and what is below."""
        yield TextBar(id="question")
        yield TextBar(id="state")
        yield MatrixView(id="matrix")
        yield TextBar(id="below")
        settings = replace(self.lab.settings, columns=list(SEED_COLUMNS), widths={}, sort="")
        with Container(id="cell"):
            yield RunTable(settings, now=self.lab.now, id="seeds")
            yield Curves(id="curves")
        yield TextView(id="effects")

    @property
    def seeds(self) -> RunTable:
        """The runs of the cell."""
        return self.query_one(RunTable)

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Ablations", self.ablation.name if self.ablation else self.ablation_id]

    def mover(self) -> Mover:
        """Keys move in the matrix, or among the seeds once those were opened."""
        return self.seeds if self.in_seeds else self.view

    def targets(self) -> list[RunRow]:
        """Return the run under the cursor among the seeds; else all runs of the marked cells, or of the one under it."""
        if self.in_seeds:
            return [self.seeds.selected] if self.seeds.selected is not None else []
        if self.view.marks:
            return self.compared()
        cell = self.view.cell
        wanted = set(cell.run_ids) if cell else set()
        return [run for run in self.runs if run.id in wanted]

    def situation(self) -> Situation:
        """Return what the keys act on."""
        return Situation(
            targets=tuple(run.status for run in self.targets()),
            comparable=len(self.compared()),
            marked=len(self.view.marks),
            has_ablation=self.ablation is not None,
            axes=len(self.ablation.axes) if self.ablation else 0,
            metrics=len(self.metrics()),
            **self.lab.writable(),
        )

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show the ablation as it is now."""
        self.ablation = snapshot.ablation(self.ablation_id) or self.ablation
        self.runs = [run for run in snapshot.runs if run.ablation_id == self.ablation_id]
        self.seeds.learn(snapshot)
        self._show_head()
        if (matrix := self.matrix()) is not None:
            self.view.show(matrix, quoted(self.ablation, matrix) if self.ablation is not None else None)
            self.view.styles.height = self.view.content_lines
        self._show_below()
        super().show_snapshot(snapshot)

    def _show_head(self) -> None:
        question, state = self.query_one("#question", TextBar), self.query_one("#state", TextBar)
        ablation = self.ablation
        if ablation is None:
            question.show((f" {self.ablation_id} is not in the store", "bad"))
            return
        question.show(
            (f" {ablation.question or 'no question was written down'}", "text" if ablation.question else "muted")
        )
        state.show(*progress_pieces(ablation, self.metric or ablation.metric, self.direction))

    @property
    def direction(self) -> str:
        """Which way the metric in view is better."""
        matrix = self.matrix()
        return matrix.direction if matrix else ""

    def _show_below(self) -> None:
        if not self.ready:
            return
        self.query_one("#cell").display, self.query_one("#effects").display = not self.show_effects, self.show_effects
        below = self.query_one("#below", TextBar)
        if self.show_effects and self.ablation is not None:
            metric = self.metric or self.ablation.metric
            below.show((" main effect of each axis on ", "muted"), (metric, "accent"))
            effects = main_effects(self.ablation, self.runs, metric)
            self.query_one("#effects", TextView).show(effect_lines(effects, self.direction))
            return
        cell, key = self.view.cell, self.view.key
        wanted = set(cell.run_ids) if cell else set()
        label = " · ".join(part for part in (*key[0], *key[1]) if part) if key else ""
        hint = "  esc goes back to the matrix" if self.in_seeds else "  enter goes to the seeds"
        name = label or "the only cell"
        pieces = [(" runs of ", "muted"), (name, "accent"), (hint, "muted"), (self.view.chance, "muted")]
        if source := self.view.quoted.source:  # where cells are narrow, ¶ stands for the paper
            pieces.append((f"   ¶ paper: {source}", "muted"))
        below.show(*pieces)
        if self.ablation is not None:
            self.seeds.by_ablation = {self.ablation_id: self.metric or self.ablation.metric}
        self.seeds.show_runs([run for run in self.runs if run.id in wanted])
        pairs = tuple((run.id, self.seeds.metric_of(run)) for run in self.seeds.rows)
        drawn = self.query_one(Curves).size.height > 0
        ids = tuple(run.id for run in self.seeds.rows) if drawn else ()
        self.watch_store(Interest(sparks=pairs, curves=ids))
        self._draw()

    def show_curves(self, curves: Mapping[str, Mapping[str, Curve]], *, complete: bool) -> None:
        """Draw the cell's seeds."""
        del complete
        self._read = {**self._read, **curves}
        self._draw()

    def _draw(self) -> None:
        metric = self.metric or (self.ablation.metric if self.ablation else "")
        lines = tuple(
            Line(f"seed {run.seed}", f"series:{index}",
                 Points(self._read[run.id][metric].steps, self._read[run.id][metric].values))
            for index, run in enumerate(self.seeds.rows) if metric in self._read.get(run.id, {})
        )  # fmt: skip
        curves = self.query_one(Curves)
        curves.alone, curves.message = True, "no points yet"
        curves.show((ChartData(metric, lines),) if lines else ())

    def on_resize(self) -> None:
        """Read curves where there is room for them now."""
        self.call_after_refresh(self._show_below)

    def show_sparks(self, sparks: dict[str, tuple[float, ...]]) -> None:
        """Show the small curves."""
        self.seeds.sparks = {**self.seeds.sparks, **sparks}
        self.seeds.repaint_changed(all_rows=True)

    def tick(self) -> None:
        """Go on with the etas."""
        self.seeds.repaint_changed(all_rows=True)

    def on_matrix_view_moved(self, _message: MatrixView.Moved) -> None:
        """Show the runs of the cell under the cursor."""
        self.in_seeds = False
        self.view.active = True
        self._show_below()
        self.show_bars()

    def on_matrix_view_opened(self, _message: MatrixView.Opened) -> None:
        """Go to the seeds."""
        self.do_open()

    def on_virtual_table_opened(self, _message: VirtualTable.Opened) -> None:
        """Open the run."""
        self.in_seeds = True
        self.do_open()

    def do_open(self) -> None:
        """Go from the matrix to the seeds, and from a seed to its run."""
        if self.show_effects:
            self.do_effects()
        elif not self.in_seeds:
            self.in_seeds = bool(self.seeds.rows)
            self._activate()
        elif self.seeds.selected is not None:
            from tui.screens.run import RunScreen

            self.lab.push_screen(RunScreen(self.seeds.selected.id, [run.id for run in self.seeds.rows]))

    def _activate(self) -> None:
        self.view.active = not self.in_seeds
        self.view.refresh()
        self._show_below()

    def do_back(self) -> None:
        """Leave the seeds, then the screen."""
        if self.in_seeds:
            self.in_seeds = False
            self._activate()
        elif self.show_effects:
            self.do_effects()
        elif self.view.marks:
            self.do_unmark()
        else:
            super().do_back()

    def do_effects(self) -> None:
        """Show the main effects, or the seeds again."""
        self.show_effects = not self.show_effects
        self.in_seeds = False
        self._activate()
