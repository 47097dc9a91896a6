"""What is painted anew: the lines that say something else, and no others, since keys wait for all that is painted.

The tests look at what a widget asks to have painted, without giving way to the application in between: a terminal may be
painted at any moment for other reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.geometry import Region
from textual.widget import Widget

from storage.home import HomePaths
from tests.unit.tui.conftest import Drive, until
from tests.unit.tui.test_actions import runs_screen
from tui.widgets.text_view import TextView

ALL = "all"


def lines_asked(widget: Widget, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> set[int | str]:
    """Return the lines of a widget that a change asks to have painted, or `ALL` where it names none."""
    asked: set[int | str] = set()
    refresh = widget.refresh

    def noted(*regions: Region, **options: Any) -> Widget:
        asked.update(y for region in regions for y in range(region.y, region.bottom))
        if not regions:
            asked.add(ALL)
        return refresh(*regions, **options)

    with monkeypatch.context() as patch:
        patch.setattr(widget, "refresh", noted)
        change()
    return asked


async def test_only_the_lines_of_the_rows_that_are_named_are_painted(
    store: HomePaths, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drive(store) as pilot:
        table = runs_screen(pilot).table
        named = {table.rows[3].id, table.rows[5].id, "no such run"}
        assert lines_asked(table, monkeypatch, lambda: table.repaint_rows(named)) == {4, 6}
        assert lines_asked(table, monkeypatch, lambda: table.repaint_rows(set())) == set()


async def test_a_pane_paints_only_the_lines_that_say_something_else(
    store: HomePaths, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drive(store, size=(160, 40)) as pilot:
        pane = pilot.app.screen.query_one("#detail", TextView)
        await until(pilot, lambda: pane._lines, "the run")
        shown = list(pane._lines)
        other = [*shown[:2], [("something else", "")], *shown[3:]]
        pane.show(other)  # the first one after the scroll bar left also wraps to the new width
        assert lines_asked(pane, monkeypatch, lambda: pane.show(shown)) == {2}
        assert lines_asked(pane, monkeypatch, lambda: pane.show(shown)) == set()
        assert ALL in lines_asked(pane, monkeypatch, lambda: pane.show(shown[:-1]))
