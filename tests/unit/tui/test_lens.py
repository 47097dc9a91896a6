"""The lens: probes as grids, the field that shows them, and the screen by its keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from storage.home import HomePaths
from storage.records import NewProvenance, NewRun, RecordBatch
from storage.repository import Repository
from tests.unit.tui.conftest import Drive, at, lab, until
from tests.unit.tui.test_actions import runs_screen
from tests.unit.tui.test_screens import bar_text, text_of
from tui.curve_cache import Curve
from tui.describe import run_lines
from tui.lens import QUANTITIES, columns_of, grid_of, index_at, measured, siblings
from tui.progress import deciding_metric
from tui.screens.lens import LensScreen
from tui.screens.run import RunScreen
from tui.theme import DARK
from tui.widgets.heatmap import EIGHTHS, LEVELS, Heatmap, ramp
from tui.widgets.run_table import available_columns

HALF_LIFE = QUANTITIES[0]


def curve(steps: list[int], values: list[float]) -> Curve:
    """Return a curve."""
    return Curve(np.array(steps, dtype=float), np.array(values), np.array(steps, dtype=float))


CURVES: Mapping[str, Curve] = {
    "probe/half_life_p50@0": curve([1, 10, 20], [4.0, 8.0, 16.0]),
    "probe/half_life_p50@2": curve([1, 20], [1.0, 100.0]),
    "probe/half_life_p95@0": curve([1], [50.0]),
    "probe/gate_open@0": curve([1], [0.5]),
    "train/loss": curve([1], [2.0]),
}


def test_a_grid_has_a_row_a_layer_and_gaps_where_there_is_nothing() -> None:
    grid = grid_of(CURVES, "half_life_p50", 4, {1: "attention"})
    assert grid.steps.tolist() == [1, 10, 20]
    np.testing.assert_equal(grid.values, [[4, 8, 16], [math.nan] * 3, [1, math.nan, 100], [math.nan] * 3])
    assert grid.kinds == {1: "attention", 3: ""}
    scale = grid.scale(log=True)
    assert (scale.low, scale.high, scale.log) == (1.0, 100.0, True)
    assert (grid.scale(log=False).low, grid.scale(log=False).high) == (0.0, 1.0)


def test_what_was_logged_is_known_with_its_quantiles() -> None:
    known = measured(CURVES)
    assert [quantity.what for quantity in known] == ["half_life_p50", "half_life_p95", "gate_open"]
    assert [quantity.what for quantity in siblings(known[0], known)] == ["half_life_p50", "half_life_p95"]
    assert siblings(known[2], known) == [known[2]]
    assert measured({"train/loss": CURVES["train/loss"]}) == []


def test_columns_hold_the_last_value_and_average_what_falls_together() -> None:
    grid = grid_of({"probe/dt_p50@0": curve([0, 10, 20, 30], [1.0, 2.0, 4.0, math.nan])}, "dt_p50", 1, {})
    assert columns_of(grid, 7)[0, :5].tolist() == [1.0, 1.0, 2.0, 2.0, 4.0]
    assert math.isnan(columns_of(grid, 7)[0, 6])
    assert columns_of(grid, 2).tolist() == [[1.5, 4.0]]
    assert columns_of(grid_of({}, "dt_p50", 2, {}), 3).shape == (2, 3)
    one = grid_of({"probe/dt_p50@0": curve([5], [1.0])}, "dt_p50", 1, {})
    assert columns_of(one, 3).tolist() == [[1.0, 1.0, 1.0]]


def test_a_place_means_the_nearest_step() -> None:
    grid = grid_of(CURVES, "half_life_p50", 4, {})
    assert [index_at(grid, cursor) for cursor in (0.0, 0.4, 1.0)] == [0, 1, 2]
    assert index_at(grid_of({}, "dt_p50", 2, {}), 0.5) == -1


@pytest.mark.parametrize("dark", [True, False])
def test_colours_read_without_hues(dark: bool) -> None:
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in
             ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in ramp(dark))]  # fmt: skip
    assert len(light) == LEVELS
    assert light == sorted(light, reverse=not dark)
    assert len(set(ramp(dark))) == LEVELS


def probed(
    store: HomePaths, *, facts: Mapping[str, Any] | None, layers: tuple[int, ...] = (0, 2), steps: int = 40
) -> str:
    """Add a run of three layers that logged probes, and return its id."""
    spec = {"model": {"n_layer": 3, "inner": "s6"}, "seed": 0}
    origin = NewProvenance(command="mambalab run", directory="/", hostname="host", python="3")
    with Repository(store) as repository:
        run_id = repository.submit(
            ablation=None, runs=[NewRun("probed", spec, "probed", total_steps=400, id="lens000001")], provenance=origin
        ).run_ids[0]
        number = repository.begin_attempt(run_id, executor="ray", now=1_764_000_000.0)
        assert number is not None
        rows = [
            (1_764_000_000.0 + step, step, {
                f"probe/{quantity.what}@{layer}": values(quantity.what, layer, step / (10 * steps))
                for quantity in QUANTITIES for layer in layers
            })
            for step in range(10, 10 * steps + 1, 10)
        ]  # fmt: skip
        notes = [(1_764_000_000.0, "probes", facts)] if facts is not None else []
        repository.record(run_id, number, RecordBatch(rows if layers else [], cursor=1, notes=notes))
    return run_id


def values(what: str, layer: int, share: float) -> float:
    """Return a made-up value."""
    if what.startswith("gate"):
        return 0.1 + 0.5 * share / (layer + 1)
    spread = {"p05": 0.1, "p95": 12.0}.get(what[-3:], 1.0)
    base = 30.0 if what.startswith("half_life") else 0.02
    return spread * base / (layer + 1) * (1 + 3 * share * (1 + math.sin(9 * share) / 4))


FACTS = {"every": 10, "layers": [0, 2], "without": {"1": "attention"}, "sequences": 8, "seqlen": 64}


async def opened(pilot: Pilot[Any], run_id: str) -> LensScreen:
    """Open the lens on a run by its key, and wait for what it shows."""
    await until(pilot, lambda: runs_screen(pilot).table.select(run_id), "the run")
    await pilot.press("M")
    screen = at(pilot, LensScreen)
    await until(pilot, lambda: screen.known or screen._probed is not None, "what was logged")
    return screen


async def test_the_crosshair_reads_values_by_layer_and_step(store: HomePaths, drive: Drive) -> None:
    run_id = probed(store, facts=FACTS)
    async with drive(store) as pilot:
        screen = await opened(pilot, run_id)
        await until(
            pilot, lambda: screen.field.grid is not None and screen.field.grid.kinds == {1: "attention"}, "facts"
        )
        value = bar_text(screen, "#value")
        assert value.startswith(" layer 0  step 400   median ")
        expected = values("half_life_p50", 0, 1.0)
        assert f"median {expected:.1f}" in value
        await pilot.press("j")
        assert bar_text(screen, "#value") == " layer 1  no probes: attention"
        await pilot.press("j")
        assert " layer 2  step 400 " in bar_text(screen, "#value")
        await pilot.press("g", *["left"] * 20)
        assert screen.field.cursor < 1
        assert "step 400" not in bar_text(screen, "#value")
        chart = screen.query_one("#curves").charts[0]  # type: ignore[attr-defined]
        assert [line.label for line in chart.lines] == ["median", "5 % quantile", "95 % quantile"]


async def test_quantities_are_chosen_by_key_by_name_and_by_mouse(store: HomePaths, drive: Drive) -> None:
    run_id = probed(store, facts=FACTS)
    async with drive(store) as pilot:
        screen = await opened(pilot, run_id)
        await until(pilot, lambda: screen.known, "probes")
        await pilot.press("m")
        assert screen.quantity.what == "half_life_p05"
        screen.action_perform("metric", "gate_open")
        assert "share of sigmoid(z) above 0.95" in bar_text(screen, "#formula")
        place = bar_text(screen, "#quantities").index("step dt")
        await pilot.click("#quantities", offset=(place + 1, 0))
        assert screen.quantity.what == "dt_p50"
        await pilot.click("#field", offset=(60, 2))
        assert 0.3 < screen.field.cursor < 0.7
        await pilot.press("enter")
        assert at(pilot, RunScreen).run_id == run_id
        await pilot.press("escape")
        await until(pilot, lambda: screen.field.grid is not None and len(screen.field.grid.steps), "the field again")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (None, "they are off unless train.probe_every is set"),
        (
            {"layers": [], "without": {"0": "mamba/s4d", "1": "attention", "2": "mamba/s4d"}},
            "No layer of this run is S6",
        ),
        ({"layers": [0], "without": {"1": "attention", "2": "mamba/s4d"}}, "has not logged the first yet"),
    ],
)
async def test_without_probes_it_says_why(
    store: HomePaths, drive: Drive, facts: Mapping[str, Any] | None, said: str
) -> None:
    run_id = probed(store, facts=facts, layers=())
    async with drive(store) as pilot:
        screen = await opened(pilot, run_id)
        await until(pilot, lambda: said in text_of(pilot, "#none"), said)
        assert screen.has_class("-none")


async def test_probes_are_no_charts_of_the_run(store: HomePaths, drive: Drive) -> None:
    run_id = probed(store, facts=FACTS)
    async with drive(store) as pilot:
        await until(pilot, lambda: runs_screen(pilot).table.select(run_id), "the run")
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen._drawn, "curves")
        assert screen.curves.charts == []
        await pilot.click("#tabs", offset=(bar_text(screen, "#tabs").index("events") + 1, 0))
        assert screen.tab == "events"


async def test_lists_leave_probes_out_and_a_run_leads_to_the_lens(store: HomePaths, drive: Drive) -> None:
    run_id = probed(store, facts=FACTS)
    async with drive(store) as pilot:
        await until(pilot, lambda: runs_screen(pilot).table.select(run_id), "the run")
        run = lab(pilot).snapshot.run(run_id)
        assert run is not None
        assert deciding_metric(run, {}) == ""
        lines = ["".join(text for text, _ in line) for line in run_lines(run, 0.0, "")]
        assert "it has probes: M opens the lens" in lines
        assert not any("probe/" in line for line in lines)
        assert not any("probe/" in key for key, _ in available_columns(lab(pilot).snapshot))
        await pilot.press("enter")
        screen = at(pilot, RunScreen)
        await until(pilot, lambda: screen._drawn, "curves")
        await pilot.click("#tabs", offset=(bar_text(screen, "#tabs").index("lens") + 1, 0))
        at(pilot, LensScreen)


async def test_without_colours_values_are_heights(
    store: HomePaths, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    run_id = probed(store, facts=FACTS)
    async with drive(store) as pilot:
        assert lab(pilot).no_color
        screen = await opened(pilot, run_id)
        await until(pilot, lambda: screen.known, "probes")
        field = screen.query_one(Heatmap)
        paint = field._painter(DARK, 2, 1)
        assert [paint(unit)[0] for unit in (0.0, 0.5, 1.0)] == [EIGHTHS[1], EIGHTHS[8], EIGHTHS[8]]
        assert [field._painter(DARK, 2, 0)(unit)[0] for unit in (0.0, 0.6, 1.0)] == [" ", EIGHTHS[2], EIGHTHS[8]]
        assert paint(math.nan)[0] == "·"
