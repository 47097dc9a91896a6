"""What the lens looks like, at three sizes, dark, light and without colours, and where there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from storage.home import HomePaths
from tests.snapshot.test_screens import LARGE, MIDDLE, SMALL, Step, steps, still, without_notices
from tests.unit.tui.test_lens import FACTS, probed
from tui.app import MambaLab
from tui.screens.lens import LensScreen

Compare = Callable[..., bool]
Clock = Callable[[], float]

CASES: dict[str, tuple[tuple[int, int], tuple[Step, ...]]] = {
    "80x24": (SMALL, ()),
    "80x24-light": (SMALL, ("T", "m", "m", "m")),
    "120x40": (MIDDLE, ("j", "j", *["h"] * 30)),
    "120x40-light": (MIDDLE, ("T",)),
    "200x60": (LARGE, ("j", *["m"] * 7)),
    "200x60-light": (LARGE, ("T", *["m"] * 6)),
}


def lens(app: MambaLab) -> bool:
    """Open the lens on the run with probes."""
    app.push_screen(LensScreen("lens000001"))
    return True


def shown(app: MambaLab) -> bool:
    """Tell whether the lens has all that it shows."""
    screen: Any = app.screen
    return screen._probed is not None and bool(screen.known) == (screen.run_row.metrics != {})


@pytest.mark.parametrize("name", CASES)
def test_lens(name: str, snap_compare: Compare, store: HomePaths, now: Clock) -> None:
    probed(store, facts=FACTS)
    size, keys = CASES[name]
    assert snap_compare(still(store, now), terminal_size=size, run_before=steps(lens, shown, *keys, without_notices))


@pytest.mark.parametrize("name", ["80x24", "120x40"])
def test_without_colour(
    name: str, snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    probed(store, facts=FACTS)
    size, _ = CASES[name]
    assert snap_compare(still(store, now), terminal_size=size, run_before=steps(lens, shown, without_notices))


def test_no_probes(snap_compare: Compare, store: HomePaths, now: Clock) -> None:
    probed(store, facts=None, layers=())
    assert snap_compare(still(store, now), terminal_size=SMALL, run_before=steps(lens, shown, without_notices))
