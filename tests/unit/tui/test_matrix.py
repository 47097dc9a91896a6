"""The matrix's cells: which differences are marked as more than chance, and when that is worked out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from textual.app import App, ComposeResult

from storage.export import MARK
from storage.matrix import Cell, CellKey, Matrix
from storage.significance import paired_p
from tui.theme import THEMES
from tui.widgets.matrix import MatrixView

NAMES = ("s4d", "s6", "near")


class MatrixApp(App[None]):
    """Shows one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.view = MatrixView()
        for theme in THEMES:
            self.register_theme(theme)

    def compose(self) -> ComposeResult:
        """Yield the matrix."""
        yield self.view


def key(name: str) -> CellKey:
    """Return the key of a row."""
    return (name,), ()


def made(seeds: int, gain: float = 0.5, failed: int = 0) -> Matrix:
    """Return a matrix whose second row is better on every seed, and whose third is so on every other one."""
    cells = {}
    for name in NAMES:
        shifts = {"s4d": (0.0, 0.0), "s6": (gain, gain), "near": (0.1, -0.1)}[name]
        values = {seed: 0.25 + 0.001 * seed + shifts[seed % 2] for seed in range(seeds)}
        mean = sum(values.values()) / seeds
        counts = {"completed": seeds, "failed": failed}
        cells[key(name)] = Cell(mean, 0.01, seeds, values, (), counts, 1.0)
    return Matrix("valid/accuracy", "max", ("mixer",), (), [(name,) for name in NAMES], [()], cells, set(), key("s4d"))


def text(view: MatrixView, row: int) -> str:
    """Return the second line of a row."""
    return view.render_line(2 + 3 * row + 1).text.strip()


async def test_a_difference_that_is_more_than_chance_is_marked_and_no_other() -> None:
    app = MatrixApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.view.show(made(8))
        await pilot.pause()
        assert [text(app.view, row) for row in range(3)] == ["baseline", f"+0.500{MARK}", "0.000"]
        assert app.view.chance == ""
        app.view.move(rows=1)
        assert app.view.chance.strip() == "p = 0.016 against the baseline, 8 seeds"  # 2 of 2^8 ways, times 2 cells
        app.view.show(made(3))
        assert text(app.view, 1) == "+0.500"  # with three seeds no difference can be more than chance


async def test_in_a_narrow_cell_the_mark_stays_and_n_goes() -> None:
    app = MatrixApp()
    async with app.run_test(size=(20, 24)) as pilot:
        app.view.show(made(8))
        await pilot.pause()
        assert text(app.view, 1) == f"n=8 +0.500{MARK}"
        app.view.show(made(8, failed=1))
        assert text(app.view, 1) == f"✖1 +0.500{MARK}"


async def test_the_test_is_run_again_only_for_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(values: Mapping[int, float], baseline: Mapping[int, float]) -> float | None:
        asked.append(len(values))
        return paired_p(values, baseline)

    monkeypatch.setattr("storage.matrix.paired_p", counting)
    app = MatrixApp()
    async with app.run_test(size=(80, 24)) as pilot:
        for matrix in (made(8), made(8), made(8, failed=1)):
            app.view.show(matrix)
            await pilot.pause()
            assert text(app.view, 1).endswith(f"+0.500{MARK}")
        assert len(asked) == 2
        app.view.show(made(8, gain=0.25))
        await pilot.pause()
        assert text(app.view, 1) == f"+0.250{MARK}"
        assert len(asked) == 4
