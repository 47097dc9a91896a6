"""What is painted anew: the lines that say something else, and no others, since keys wait for all that is painted."""

from __future__ import annotations

from textual.strip import Strip

from storage.home import HomePaths
from tests.unit.tui.conftest import Drive, until
from tests.unit.tui.test_actions import runs_screen
from tui.widgets.text_view import TextView


async def test_only_the_lines_of_the_rows_that_are_named_are_painted(store: HomePaths, drive: Drive) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        painted: list[int] = []
        render_line = table.render_line

        def counted(y: int) -> Strip:
            painted.append(y)
            return render_line(y)

        table.render_line = counted  # type: ignore[method-assign]
        await pilot.pause()
        painted.clear()
        table.repaint_rows({table.rows[3].id, table.rows[5].id, "no such run"})
        await until(pilot, lambda: painted, "the lines")
        assert set(painted) == {4, 6}
        painted.clear()
        table.repaint_rows(set())
        await pilot.pause()
        assert painted == []


async def test_a_pane_paints_only_the_lines_that_say_something_else(store: HomePaths, drive: Drive) -> None:
    async with drive(store, size=(160, 40)) as pilot:
        pane = pilot.app.screen.query_one("#detail", TextView)
        await until(pilot, lambda: pane._lines, "the run")
        shown = list(pane._lines)
        painted: list[int] = []
        render_line = pane.render_line

        def counted(y: int) -> Strip:
            painted.append(y)
            return render_line(y)

        pane.render_line = counted  # type: ignore[method-assign]
        await pilot.pause()
        painted.clear()
        pane.show([*shown[:2], [("something else", "")], *shown[3:]])
        await until(pilot, lambda: painted, "the line")
        assert set(painted) == {2}
        pane.show(shown[:-1])
        await until(pilot, lambda: len(set(painted)) > len(shown), "all of it")
