"""The first screen: all runs, live, with a pane about the one under the cursor where there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal

from storage.rows import RunRow
from tui.filter import Filter, compile_filter
from tui.filter_terms import groupings
from tui.keys import Situation, bindings
from tui.messages import Snapshot, StoreState
from tui.screens.column_actions import ColumnActions
from tui.screens.control import ControlScreen
from tui.screens.empty import empty_lines
from tui.screens.sorting import SortActions
from tui.source import Interest
from tui.widgets.filter_bar import FilterBar
from tui.widgets.run_table import RunTable
from tui.widgets.table import VirtualTable
from tui.widgets.text_view import TextView


class RunsScreen(ColumnActions, SortActions, ControlScreen):
    """The table of runs."""

    SCOPE = "runs"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("runs")]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (124, "-wide")]  # noqa: RUF012 - Textual declares it so

    def __init__(self) -> None:
        super().__init__()
        self.filter: Filter = compile_filter("")
        self.show_archived = False
        self.matching = 0

    def body(self) -> ComposeResult:
        """Yield the filter, the table and the pane."""
        yield FilterBar()
        with Horizontal(id="main"):
            yield RunTable(self.lab.settings, now=self.lab.now, id="runs")
            yield TextView(id="detail")
        yield TextView(id="empty")

    def begin(self) -> None:
        """Show what is known; what is not in the first rows is read once those are painted."""
        self.call_after_refresh(self.lab.source.painted)

    @property
    def table(self) -> RunTable:
        """The table."""
        return self.query_one(RunTable)

    @property
    def bar(self) -> FilterBar:
        """The filter's line."""
        return self.query_one(FilterBar)

    def mover(self) -> RunTable:
        """Keys move in the table."""
        return self.table

    def crumbs(self) -> list[str]:
        """Return where one is."""
        return ["Runs"]

    def note(self) -> str:
        """Return how much of the list is shown."""
        words = []
        if self.filter.text:
            words.append(f"/{self.filter.text}  {self.matching} of {len(self.snapshot.runs)}")
        if self.table.group_of is not None:
            words.append(f"by {self.table.group_name}")
        if self.table.marks:
            words.append(f"{len(self.table.marks)} marked")
        if self.show_archived:
            words.append("with archived")
        return "  ".join(words)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Filter and show the runs, or say why there are none."""
        table = self.table
        table.learn(snapshot)
        nothing = not snapshot.runs and snapshot.state is not StoreState.LOCKED
        self.set_class(nothing, "-empty")
        if nothing:
            self.query_one("#empty", TextView).show(empty_lines(snapshot, self.lab.home_name))
        if table.marks:
            table.marks &= {run.id for run in snapshot.runs}
        self.apply_filter()
        super().show_snapshot(snapshot)

    def apply_filter(self) -> None:
        """Show the runs that match."""
        runs = self.filter.select(self.snapshot.runs, self.lab.now())
        self.matching = len(runs)
        self.table.show_runs(runs)
        self.bar.count(len(runs), len(self.snapshot.runs))
        self._show_selected()

    def _show_selected(self) -> None:
        if not self.ready:
            return
        run = self.table.selected
        if self.has_class("-wide"):
            from tui.describe import run_lines

            lines = run_lines(run, self.lab.now(), self.table.metric_of(run)) if run else []
            self.query_one("#detail", TextView).show(lines)
        self.show_bars()
        self.watch_sparks()

    def watch_sparks(self) -> None:
        """Ask for the small curves of the rows in view."""
        table = self.table
        pairs = tuple((run.id, table.metric_of(run)) for run in table.visible_runs() if run.metrics)
        self.watch_store(Interest(sparks=pairs))

    def on_resize(self) -> None:
        """Fill the pane that has just appeared."""
        self.call_after_refresh(self._show_selected)

    def tick(self) -> None:
        """Repaint ages, and etas."""
        self.table.repaint_changed(all_rows=True)
        self.watch_sparks()

    def show_sparks(self, sparks: dict[str, tuple[float, ...]]) -> None:
        """Show the small curves."""
        known = self.table.sparks
        self.table.sparks = {**known, **sparks}
        self.table.repaint_rows({run_id for run_id, values in sparks.items() if known.get(run_id) != values})

    def targets(self) -> list[RunRow]:
        """Return the marked runs, or the one under the cursor."""
        marked = self.table.marked(self.snapshot.runs)
        selected = self.table.selected
        return marked or ([selected] if selected is not None else [])

    def situation(self) -> Situation:
        """Return what the keys act on."""
        runs = self.targets()
        return Situation(
            targets=tuple(run.status for run in runs),
            marked=len(self.table.marks),
            comparable=len(self.table.marks),
            has_ablation=bool(runs and runs[0].ablation_id),
            filtered=bool(self.filter.text),
            **self.lab.writable(),
        )

    def on_virtual_table_moved(self, _message: VirtualTable.Moved) -> None:
        """Follow the cursor, once it has been painted."""
        self.call_after_refresh(self._show_selected)

    def on_virtual_table_opened(self, _message: VirtualTable.Opened) -> None:
        """Open what was clicked twice."""
        self.do_open()

    def on_virtual_table_sorted(self, message: VirtualTable.Sorted) -> None:
        """Remember the order."""
        settings = self.lab.settings
        settings.sort, settings.descending = message.table.sort_key, message.table.descending
        self.lab.save_settings()

    def on_filter_bar_changed(self, message: FilterBar.Changed) -> None:
        """Show what matches."""
        self.filter = message.filter
        self.apply_filter()
        self.show_bars()

    def on_filter_bar_left(self, _message: FilterBar.Left) -> None:
        """Go back to the table; a filter that is none is taken off."""
        self.set_focus(None)
        if not self.filter.text:
            self.bar.close()

    def do_filter(self) -> None:
        """Write a filter."""
        self.bar.open(self.snapshot.fields)
        self.apply_filter()

    def take_filter(self, text: str) -> None:
        """Filter the runs."""
        compile_filter(text, self.snapshot.fields)
        self.bar.open(self.snapshot.fields, text)

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        fields = self.snapshot.fields
        if name == "sort":
            return [column.title for column in self.table.columns]
        if name == "group_by":
            return groupings(fields)
        if name == "filter":
            return [
                f"{field}=" for field in ("status", "tags", "ablation", *groupings(fields), *sorted(fields.metrics))
            ]
        return super().choices(name)

    def do_back(self) -> None:
        """Leave the filter's field, then take the filter off, then the marks, then the groups."""
        if self.focused is not None and not self.filter.text and not self.bar.text:
            self.set_focus(None)
            self.bar.close()
        elif self.focused is not None:
            self.set_focus(None)
        elif self.bar.has_class("open"):
            self.bar.close()
        elif self.table.marks:
            self.do_unmark()
        elif self.table.group_of is not None:
            self._group("", None)
        else:
            super().do_back()

    def do_open(self) -> None:
        """Open the run under the cursor."""
        run = self.table.selected
        if run is not None:
            from tui.screens.run import RunScreen

            self.lab.push_screen(RunScreen(run.id, [row.id for row in self.table.rows]))

    def do_ablation(self) -> None:
        """Open the ablation of the run under the cursor."""
        run = self.targets()[0]
        if run.ablation_id is not None:
            from tui.screens.ablation import AblationScreen

            self.lab.push_screen(AblationScreen(run.ablation_id))

    def do_mark(self) -> None:
        """Mark the run."""
        self.table.toggle_mark()

    def do_unmark(self) -> None:
        """Forget the marks."""
        self.table.marks.clear()
        self.table.refresh()

    def do_compare(self) -> None:
        """Compare the marked runs."""
        from tui.screens.compare import CompareScreen

        self.lab.push_screen(CompareScreen([run.id for run in self.table.marked(self.snapshot.runs)]))

    def do_group_by(self) -> None:
        """Ask for a field, and group by it."""
        from tui.screens.grouping import ask_for_grouping

        ask_for_grouping(self.lab, self.table.group_name, self._group)

    def take_group_by(self, text: str) -> None:
        """Group by a field."""
        from tui.screens.grouping import group_by

        group_by(self.lab, text, self._group)

    def _group(self, name: str, value_of: Callable[[RunRow], object] | None) -> None:
        self.table.group_by(name, value_of)
        self.apply_filter()
        self.table.move_to(0 if value_of is not None else self.table.cursor)  # where the first head is
        self.show_bars()

    def do_archived(self) -> None:
        """Show or hide archived runs."""
        self.show_archived = not self.show_archived
        self.lab.source.refresh(archived=self.show_archived)
