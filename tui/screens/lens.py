"""The Mamba lens: what goes on inside a run's layers as it trains, as far as it logged probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from storage.rows import RunRow
from tui.curve_cache import Curve
from tui.describe import run_title
from tui.format import number
from tui.keys import Situation, bindings
from tui.lens import QUANTITIES, Quantity, grid_of, index_at, measured, siblings
from tui.messages import Detail, Snapshot
from tui.plot.series import Points
from tui.screens.base import LabScreen
from tui.source import Interest
from tui.widgets.chart_data import ChartData, Line
from tui.widgets.curves import Curves
from tui.widgets.heatmap import Heatmap
from tui.widgets.status_bar import TextBar
from tui.widgets.text_view import TextLine, TextView

HOW = "mambalab run --set train.probe_every=50 ..."


class LensScreen(LabScreen):
    """A field of layers by steps, and the layer under the cursor as curves."""

    SCOPE = "lens"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("lens")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]  # noqa: RUF012 - Textual declares it so

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.run_row: RunRow | None = None
        self.quantity: Quantity = QUANTITIES[0]
        self.known: list[Quantity] = []
        self._kinds: dict[int, str] = {}
        self._probed: bool | None = None  # whether the run says that it probes; None where it says nothing
        self._read: Mapping[str, Curve] = {}

    def body(self) -> ComposeResult:
        """Yield what is shown, the field, the value, the curves, and what there is instead."""
        yield TextBar(id="quantities")
        yield TextBar(id="formula")
        yield Heatmap(id="field")
        yield TextBar(id="value")
        yield Curves(id="curves")
        yield TextView(id="none")

    @property
    def field(self) -> Heatmap:
        """The field."""
        return self.query_one(Heatmap)

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Runs", run_title(self.run_row) if self.run_row else self.run_id, "Lens"]

    def mover(self) -> Heatmap:
        """Keys move the crosshair."""
        return self.field

    def situation(self) -> Situation:
        """Return what the keys act on."""
        return Situation(metrics=len(self.known))

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Follow the run."""
        self.run_row = snapshot.run(self.run_id) or self.run_row
        self.watch_store(Interest(detail=self.run_id, curves=(self.run_id,)))
        super().show_snapshot(snapshot)

    def show_detail(self, detail: Detail) -> None:
        """Learn which layers have no probes, and what they are."""
        if detail.run.id != self.run_id:
            return
        self.run_row = detail.run
        facts = detail.facts.get("probes")
        self._probed = isinstance(facts, dict)
        if isinstance(facts, dict):
            self._kinds = {int(layer): str(kind) for layer, kind in facts.get("without", {}).items()}
        self._show()

    def show_curves(self, curves: Mapping[str, Mapping[str, Curve]], *, complete: bool) -> None:
        """Show what was logged."""
        del complete
        if self.run_id in curves:
            self._read = curves[self.run_id]
            self.known = measured(self._read)
            if self.known and self.quantity not in self.known:
                self.quantity = self.known[0]
            self._show()
            self.show_bars()

    def _show(self) -> None:
        self.set_class(not self.known, "-none")
        if not self.known:
            self.query_one("#none", TextView).show(self._why_none())
            return
        layers = self.run_row.config.get("model.n_layer", 0) if self.run_row else 0
        grid = grid_of(self._read, self.quantity.what, int(layers), self._kinds)
        self.field.show(grid, log=self.quantity.log, unit=self.quantity.unit)
        if self.field.row in grid.kinds and len(grid.kinds) < grid.layers:
            self.field.row = next(layer for layer in range(grid.layers) if layer not in grid.kinds)
        self._show_words()
        self._show_value()

    def _why_none(self) -> list[TextLine]:
        if self._probed is None:
            return [[("Reading what the run logged ...", "muted")]]
        if self._probed and len(self._kinds) and not self._started():
            return [[("The run probes, and has not logged the first yet.", "")]]
        if self._probed:
            kinds = ", ".join(f"{layer} {kind}" for layer, kind in self._kinds.items())
            return [
                [("No layer of this run is S6, so there is nothing to look into.", "")],
                [],
                [(f"layers: {kinds}", "muted")],
            ]
        return [[("This run logged no probes: they are off unless train.probe_every is set.", "")], [],
                [(f"    {HOW}", "accent")], [],
                [("They cost one pass over one held-out batch each time, and training is the same bit for bit.", "muted")]]  # fmt: skip

    def _started(self) -> bool:
        layers = self.run_row.config.get("model.n_layer", 0) if self.run_row else 0
        return len(self._kinds) >= int(layers)

    def _show_words(self) -> None:
        pieces: list[tuple[str, str]] = [(" ", "")]
        families = dict.fromkeys(quantity.family for quantity in self.known)
        for family in families:
            chosen = family == self.quantity.family
            first = next(quantity for quantity in self.known if quantity.family == family)
            name = self.quantity.title if chosen else first.title.partition(",")[0]
            pieces += [(f" {name} ", "chosen" if chosen else "muted"), (" ", "")]
        self.query_one("#quantities", TextBar).show(*pieces)
        self.query_one("#formula", TextBar).show((f" {self.quantity.formula}", "muted"))

    def _show_value(self) -> None:
        field = self.field
        grid, bar = field.grid, self.query_one("#value", TextBar)
        if grid is None or not grid.layers:
            return
        layer, index = field.row, index_at(grid, field.cursor)
        curves = self.query_one(Curves)
        curves.alone, curves.message = True, "no probes of this layer"
        if layer in grid.kinds or index < 0:
            bar.show(
                (f" layer {layer}", "accent"), (f"  no probes: {grid.kinds.get(layer) or 'not an S6 layer'}", "muted")
            )
            curves.show(())
            return
        step = grid.steps[index]
        pieces = [(f" layer {layer}", "accent"), (f"  step {step:,.0f}  ", "muted")]
        lines: list[Line] = []
        for other in siblings(self.quantity, self.known):
            curve = self._read.get(f"probe/{other.what}@{layer}")
            if curve is None or not len(curve):
                continue
            value = curve.values[min(int(curve.steps.searchsorted(step)), len(curve) - 1)]
            mine = other is self.quantity
            label = other.title.rpartition(", ")[2] if len(siblings(self.quantity, self.known)) > 1 else other.title
            pieces.append((f" {label} {number(float(value), 4)}", "best" if mine else ""))
            lines.append(Line(label, f"series:{(0, 1, 2)[len(lines)]}", Points(curve.steps, curve.values)))
        pieces.append((f" {self.quantity.unit}", "muted"))
        bar.show(*pieces)
        curves.set_view(replace(curves.view, log_y=self.quantity.log, cursor=field.cursor))
        curves.show((ChartData(f"layer {layer}: {self.quantity.title.partition(',')[0]}", tuple(lines)),))

    def on_heatmap_moved(self, _message: Heatmap.Moved) -> None:
        """Show the value under the crosshair."""
        self._show_value()

    def on_text_bar_pressed(self, message: TextBar.Pressed) -> None:
        """Show a quantity that was clicked."""
        found = next((quantity for quantity in self.known if message.text == quantity.title.partition(",")[0]), None)
        if found is not None:
            self.quantity = found
            self._show()

    def do_open(self) -> None:
        """Open the run."""
        from tui.screens.run import RunScreen

        self.lab.push_screen(RunScreen(self.run_id))

    def do_metric(self) -> None:
        """Show the next quantity."""
        self.quantity = self.known[(self.known.index(self.quantity) + 1) % len(self.known)]
        self._show()

    def take_metric(self, name: str) -> None:
        """Show a quantity by its name."""
        found = [quantity for quantity in self.known if quantity.what == name]
        if not found:
            raise ValueError(f"there is no quantity {name!r}; there are {', '.join(self.choices('metric'))}")
        self.quantity = found[0]
        self._show()

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        return [quantity.what for quantity in self.known] if name == "metric" else super().choices(name)
