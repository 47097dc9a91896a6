"""One run: its curves, configuration, log, events and origin, live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical

from storage.rows import RunRow
from tui.charts import SYSTEM, run_charts, x_kinds
from tui.curve_cache import Curve
from tui.describe import config_lines, event_lines, machine_line, origin_lines, run_lines, run_title
from tui.format import bar, count_label, duration
from tui.keys import Situation, bindings
from tui.messages import Detail, LogRead, Snapshot
from tui.progress import PROBE, deciding_metric, eta_of, is_silent, share_of
from tui.screens.base import Mover
from tui.screens.control import ControlScreen
from tui.screens.curve_actions import CurveActions
from tui.source import Interest
from tui.theme import STATUS_GLYPHS
from tui.widgets.curves import Curves
from tui.widgets.log_view import LogView
from tui.widgets.status_bar import TextBar
from tui.widgets.text_view import TextView

TABS = ("curves", "config", "log", "events", "origin", "system")
CHARTS = ("curves", "system")


class RunScreen(CurveActions, ControlScreen):
    """A run in tabs, with its state above and, where there is room, a summary beside."""

    SCOPE = "run"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("run")]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (124, "-wide")]  # noqa: RUF012 - Textual declares it so

    def __init__(self, run_id: str, listed: Sequence[str] = ()) -> None:
        super().__init__()
        self.run_id = run_id
        self.listed = list(listed)
        self.tab = "curves"
        self.run_row: RunRow | None = None
        self.detail: Detail | None = None
        self._drawn: Mapping[str, Curve] = {}

    def body(self) -> ComposeResult:
        """Yield the state, the tabs and the panes."""
        yield TextBar(id="state")
        yield TextBar(id="tabs")
        with Horizontal(id="main"):
            yield Curves(id="curves")
            yield TextView(id="config")
            yield LogView(id="log")
            yield TextView(id="events")
            yield TextView(id="origin")
            with Vertical(id="system"):
                yield TextBar(id="machine")
                yield Curves(id="usage")
            yield TextView(id="detail")

    def begin(self) -> None:
        """Start with the curves."""
        self.curves.view = self.remembered()
        usage = self.query_one("#usage", Curves)
        usage.view = replace(usage.view, x_kind="time")
        self.show_tab("curves")

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Runs", run_title(self.run_row) if self.run_row else self.run_id]

    @property
    def deciding(self) -> str:
        """The metric that decides this run."""
        by_ablation = {row.id: row.metric for row in self.snapshot.ablations}
        return deciding_metric(self.run_row, by_ablation) if self.run_row else ""

    @property
    def curves(self) -> Curves:
        """The charts of the tab that is open; of training, where it has none."""
        return self.query_one("#usage" if self.tab == "system" else "#curves", Curves)

    def mover(self) -> Mover:
        """Keys move in the tab that is open."""
        if self.tab in CHARTS:
            return self.curves
        return self.query_one(LogView) if self.tab == "log" else self.query_one(f"#{self.tab}", TextView)

    def targets(self) -> list[RunRow]:
        """Return this run."""
        return [self.run_row] if self.run_row else []

    def situation(self) -> Situation:
        """Return what the keys act on."""
        runs = self.targets()
        return Situation(
            targets=tuple(run.status for run in runs),
            has_ablation=bool(runs and runs[0].ablation_id),
            tab=self.tab,
            **self.lab.writable(),
        )

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Show the run as it is now; an archived one that the list leaves out stays as it was."""
        self.run_row = snapshot.run(self.run_id) or self.run_row
        self._watch()
        self._show_tabs()
        self._show_state()
        super().show_snapshot(snapshot)

    def _watch(self) -> None:
        attempt = self.run_row.attempt if self.run_row else 0
        log = (self.run_id, attempt) if self.tab == "log" else None
        curves = (self.run_id,) if self.tab in CHARTS else ()
        self.watch_store(Interest(detail=self.run_id, curves=curves, log=log))

    def _show_state(self) -> None:
        if not self.ready:
            return
        run = self.run_row
        if run is None:
            self.query_one("#state", TextBar).show((f" {self.run_id} is not in the store", "bad"))
            return
        now = self.lab.now()
        total = f" of {count_label(run.total_steps)}" if run.total_steps else ""
        filled, rest = bar(share_of(run), 16)
        pieces = [(f" {STATUS_GLYPHS.get(run.status, '?')} {run.status} ", run.status),
                  (f" {filled}", run.status), (rest, "faint"), (f" step {count_label(run.step)}{total}", "")]  # fmt: skip
        if is_silent(run, now):
            pieces.append(("  no sign of life for a minute", "warning"))
        elif (eta := eta_of(run, now)) is not None:
            pieces.append((f"  done in {duration(eta)}", "muted"))
        if run.duration_s is not None:
            pieces.append((f"  took {duration(run.duration_s)}", "muted"))
        if run.attempt > 1:
            pieces.append((f"  attempt {run.attempt} of {run.max_attempts}", "warning"))
        pieces.append((f"  {run.id}", "muted"))
        if run.error:
            pieces.append((f"  {run.reason or ''} {run.error}", "failed"))
        self.query_one("#state", TextBar).show(*pieces)
        if self.has_class("-wide"):
            self.query_one("#detail", TextView).show(run_lines(run, now, self.deciding))
        self.query_one("#config", TextView).show(config_lines(run.config))

    def show_tab(self, tab: str) -> None:
        """Open a tab."""
        self.tab = tab
        for name in TABS:
            self.query_one(f"#{name}").display = name == tab
        self._show_tabs()
        if tab in CHARTS:
            self.draw_curves()
        self._watch()

    def _show_tabs(self) -> None:
        pieces = [(" ", "")]
        for number, name in enumerate(TABS, 1):
            pieces += [(f" {number}", "muted"), (f" {name} ", "chosen" if name == self.tab else ""), (" ", "")]
        probed = self.run_row is not None and any(key.startswith(PROBE) for key in self.run_row.metrics)
        self.query_one("#tabs", TextBar).show(*pieces, *([(" M", "muted"), (" lens ", "")] if probed else []))

    def on_text_bar_pressed(self, message: TextBar.Pressed) -> None:
        """Open a tab that was clicked."""
        if message.text in TABS:
            self.show_tab(message.text)
        elif message.text == "lens":
            self.do_lens()

    def on_resize(self) -> None:
        """Fill the pane that has just appeared."""
        self.call_after_refresh(self._show_state)

    def tick(self) -> None:
        """Go on with the eta."""
        self._show_state()

    def show_curves(self, curves: Mapping[str, Mapping[str, Curve]], *, complete: bool) -> None:
        """Draw this run's curves."""
        if self.run_id in curves:
            self._drawn = curves[self.run_id]
            if complete and not self._drawn:
                self.query_one("#curves", Curves).message = "no metrics yet: the run has not logged anything"
            if complete and not any(key.startswith(SYSTEM) for key in self._drawn):
                self.query_one(
                    "#usage", Curves
                ).message = "nothing measured: looks at the machine begin with the first row"
            self.draw_curves()

    def draw_curves(self) -> None:
        """Make the charts anew."""
        self.x_kinds = tuple(x_kinds(self._drawn))
        self.curves.show(
            run_charts(
                self._drawn,
                deciding=self.deciding,
                kind=self.curves.view.x_kind,
                system=self.tab == "system",
                attempts=self.detail.attempts if self.detail else (),
                checkpoints=self.detail.checkpoints if self.detail else (),
            )
        )

    def show_detail(self, detail: Detail) -> None:
        """Show events and origin."""
        if detail.run.id != self.run_id:
            return
        before, self.detail, self.run_row = self.detail, detail, detail.run
        self.query_one("#events", TextView).show(event_lines(detail))
        self.query_one("#origin", TextView).show(origin_lines(detail))
        self.query_one("#machine", TextBar).show(*machine_line(detail.run, detail.facts))
        self._show_state()
        if before is None or (before.checkpoints, before.attempts) != (detail.checkpoints, detail.attempts):
            self.draw_curves()

    def show_log(self, message: LogRead) -> None:
        """Add to the log."""
        if message.run_id == self.run_id:
            view = self.query_one(LogView)
            if message.attempt < 1:
                view.message = "no attempt yet: the run waits in the queue"
            elif self.detail is not None and any(
                row.number == message.attempt and row.executor == "inline" for row in self.detail.attempts
            ):
                view.message = "it ran inline: what it printed went to the terminal of the command that ran it"
            view.show(message.lines, first=message.first)

    def do_curves(self) -> None:
        """Open the curves."""
        self.show_tab("curves")

    def do_config(self) -> None:
        """Open the configuration."""
        self.show_tab("config")

    def do_log(self) -> None:
        """Open the log."""
        self.show_tab("log")

    def do_events(self) -> None:
        """Open attempts and events."""
        self.show_tab("events")

    def do_origin(self) -> None:
        """Open facts and provenance."""
        self.show_tab("origin")

    def do_system(self) -> None:
        """Open what it uses of its machine."""
        self.show_tab("system")

    def do_follow(self) -> None:
        """Go to the end of the log and stay there."""
        self.query_one(LogView).move_to(10**9)

    def do_open(self) -> None:
        """Enlarge a chart, or show all."""
        if self.tab in CHARTS:
            self.curves.enlarge()

    def do_back(self) -> None:
        """Leave the crosshair, the zoom, the enlargement, then the screen."""
        if self.tab not in CHARTS or not self.leave_curves():
            super().do_back()

    def do_previous_run(self) -> None:
        """Show the run above in the list."""
        self._go(-1)

    def do_next_run(self) -> None:
        """Show the run below in the list."""
        self._go(1)

    def _go(self, by: int) -> None:
        if self.run_id not in self.listed:
            return
        at = self.listed.index(self.run_id) + by
        if 0 <= at < len(self.listed):
            self.run_id = self.listed[at]
            self.run_row, self.detail, self._drawn = self.snapshot.run(self.run_id), None, {}
            for charts in self.query(Curves):
                charts.show(())
            self.show_snapshot(self.snapshot)

    def do_ablation(self) -> None:
        """Open the run's ablation."""
        if self.run_row is not None and self.run_row.ablation_id is not None:
            from tui.screens.ablation import AblationScreen

            self.lab.push_screen(AblationScreen(self.run_row.ablation_id))
