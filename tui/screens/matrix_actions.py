"""What one does with an ablation's matrix: other metrics and layouts, marks, comparisons, export, further seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from storage.matrix import Matrix, build_matrix
from storage.rows import AblationRow, RunRow
from tui.exports import write_exports
from tui.screens.control import ControlScreen
from tui.screens.queueing import add_seeds, ask_for_seeds
from tui.study import layouts_of, metrics_of
from tui.widgets.matrix import MatrixView


class MatrixActions(ControlScreen):
    """A screen of one ablation with its matrix."""

    def __init__(self, ablation_id: str) -> None:
        super().__init__()
        self.ablation_id = ablation_id
        self.ablation: AblationRow | None = None
        self.runs: list[RunRow] = []
        self.metric = ""
        self.layout_index = 0
        self.in_seeds = False
        self.show_effects = False

    @property
    def view(self) -> MatrixView:
        """The matrix."""
        return self.query_one(MatrixView)

    def metrics(self) -> list[str]:
        """Return the metrics that the matrix can show, the deciding one first."""
        return metrics_of(self.ablation, self.runs)

    def layouts(self) -> list[tuple[list[str], list[str]]]:
        """Return the ways to lay out the axes."""
        return layouts_of(self.ablation.axes if self.ablation else ())

    def matrix(self) -> Matrix | None:
        """Return the matrix as it is now."""
        if self.ablation is None:
            return None
        rows, columns = self.layouts()[self.layout_index % len(self.layouts())]
        return build_matrix(self.ablation, self.runs, metric=self.metric or None, rows=rows, columns=columns)

    def do_metric(self) -> None:
        """Show the next metric."""
        known = self.metrics()
        now = self.metric or (self.ablation.metric if self.ablation else "")
        self.metric = known[(known.index(now) + 1) % len(known)] if now in known else known[0]
        self.show_snapshot(self.snapshot)

    def take_metric(self, name: str) -> None:
        """Show a metric, by its name or how it ends."""
        known = self.metrics()
        found = [key for key in known if key == name] or [key for key in known if key.endswith(f"/{name}")]
        if len(found) != 1:
            raise ValueError(f"there is no metric {name!r}; there are {', '.join(known)}")
        self.metric = found[0]
        self.show_snapshot(self.snapshot)

    def choices(self, name: str) -> Sequence[str]:
        """Return what an action may take, for completion."""
        return self.metrics() if name == "metric" else super().choices(name)

    def do_add_seeds(self) -> None:
        """Ask for further seeds."""
        if self.ablation is not None:
            ask_for_seeds(self.lab, self.ablation)

    def take_add_seeds(self, text: str) -> None:
        """Queue further seeds."""
        if self.ablation is not None:
            add_seeds(self.lab, self.ablation, text)

    def do_swap(self) -> None:
        """Lay out the axes the next way."""
        self.layout_index = (self.layout_index + 1) % len(self.layouts())
        self.view.row = self.view.column = 0
        self.view.marks.clear()  # they are places in the layout
        self.show_snapshot(self.snapshot)

    def compared(self) -> list[RunRow]:
        """Return the runs of the marked cells, or all."""
        wanted = {run_id for key in self.view.marks for run_id in self.view.runs_of(key)}
        return [run for run in self.runs if run.id in wanted] if self.view.marks else self.runs

    def do_compare(self) -> None:
        """Compare the curves of the marked trials, or of all."""
        from tui.screens.compare import CompareScreen

        self.lab.push_screen(CompareScreen([run.id for run in self.compared()]))

    def do_mark(self) -> None:
        """Mark the cell under the cursor."""
        self.view.toggle_mark()

    def do_unmark(self) -> None:
        """Forget the marks."""
        self.view.marks.clear()
        self.view.refresh()

    def note(self) -> str:
        """Return how many cells are marked."""
        return f"{len(self.view.marks)} marked" if self.view.marks else ""

    def do_copy_command(self) -> None:
        """Copy the command that prints this table."""
        self._copy(self.table_command())

    def table_command(self, *further: str) -> str:
        """Return the command that prints this table: this ablation, metric and layout, whatever else has its name."""
        matrix, ablation = self.matrix(), self.ablation
        if matrix is None or ablation is None:
            return self.lab.command("table", self.ablation_id)
        words = ["table", ablation.id if self.snapshot.shares_its_name(ablation) else ablation.name]
        if matrix.metric != ablation.metric:
            words += ["--metric", matrix.metric]
        if self.layout_index % len(self.layouts()):
            words += ["--rows", ",".join(matrix.row_axes), "--columns", ",".join(matrix.column_axes)]
        return self.lab.command(*words, *further)

    def do_export(self) -> None:
        """Write the matrix as Markdown, LaTeX and CSV below the home."""
        matrix, ablation = self.matrix(), self.ablation
        if matrix is None or ablation is None:
            return
        which = f"{ablation.name}-{ablation.id}" if self.snapshot.shares_its_name(ablation) else ablation.name
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{which}-{matrix.metric}").strip("-.")
        folder = self.lab.paths.root / "exports"
        line = self.table_command("--format", "md")
        self.lab.control(
            f"export to {folder / name}.md, .tex and .csv", line, lambda: write_exports(folder, name, matrix, ablation)
        )
