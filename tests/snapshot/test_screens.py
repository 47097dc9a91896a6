"""What every screen looks like in its states, as SVG: `pytest tests/snapshot --snapshot-update` after a look at the report."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from storage.cluster import ClusterRow, Holding, Machine, Phase, Waiting
from storage.home import HomePaths
from storage.queries import Reader
from storage.records import RecordBatch
from storage.repository import Repository
from storage.sample import NOW
from tui.app import MambaLab, make_app

Compare = Callable[..., bool]
Clock = Callable[[], float]
Step = str | Callable[[MambaLab], object]
SMALL, MIDDLE, LARGE = (80, 24), (120, 40), (200, 60)


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Let the application work until something is true."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the screen never got ready"
        await pilot.pause(0.01)


def steps(*wanted: Step) -> Callable[[Pilot[Any]], Awaitable[None]]:
    """Return what presses keys and waits for conditions, in order, once the store has been read."""

    async def run(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, MambaLab)
        await until(pilot, lambda: getattr(app.screen, "ready", False) and app.snapshot.state != "loading")
        await until(pilot, lambda: app.snapshot.complete or not app.snapshot.runs)
        for step in wanted:
            if isinstance(step, str):
                await pilot.press(step)
            else:
                await until(pilot, partial(step, app))
        await pilot.pause()

    return run


def on(status: str) -> Step:
    """Return the step that puts the cursor of the first screen on a run of a status."""

    def select(app: MambaLab) -> bool:
        table: Any = app.screen_stack[0].query_one("#runs")
        return bool(table.select(next(run.id for run in table.rows if run.status == status)))

    return select


def curves(app: MambaLab) -> bool:
    """Tell whether curves are drawn."""
    return bool(getattr(app.screen, "curves", None) and app.screen.curves.charts)  # type: ignore[attr-defined]


def sparks(app: MambaLab) -> bool:
    """Tell whether the small curves of all runs in view with metrics are there."""
    table: Any = app.screen.query_one("#runs, #seeds")
    return all(run.id in table.sparks for run in table.visible_runs() if run.metrics)


def detail(app: MambaLab) -> bool:
    """Tell whether the run is known in full."""
    return getattr(app.screen, "detail", None) is not None


def compared(app: MambaLab) -> bool:
    """Tell whether the curves of all compared runs are drawn, not those alone that the screen before had asked for."""
    return curves(app) and set(app.screen._read) == set(app.screen.run_ids)  # type: ignore[attr-defined]


def charts_of_cell(app: MambaLab) -> bool:
    """Tell whether the chart beside the seeds is drawn."""
    return bool(app.screen.query_one("#curves").charts)  # type: ignore[attr-defined]


def ask(app: MambaLab) -> bool:
    """Write a query into the console."""
    app.screen.query_one("#query", Input).value = QUERY
    return True


def answered(app: MambaLab) -> bool:
    """Tell whether the console shows rows."""
    return bool(app.screen.query_one("#answer").rows)  # type: ignore[attr-defined]


CASES: dict[str, tuple[tuple[int, int], tuple[Step, ...]]] = {
    "runs-80x24": (SMALL, (sparks,)),
    "runs-120x40": (MIDDLE, (sparks, "j", "space", "space")),
    "runs-200x60": (LARGE, (sparks, on("failed"))),
    "runs-light": (MIDDLE, (sparks, "T")),
    "runs-filtered": (SMALL, ("slash", *"status", "equals_sign", *"failed", "enter", sparks)),
    "runs-filter-mistake": (SMALL, ("slash", *"d", "underscore", *"sate", "greater_than_sign", "8", sparks)),
    "runs-sorted": (SMALL, (*"llll", "s", sparks)),
    "runs-cancel": (SMALL, (sparks, on("running"), "X")),
    "runs-tag": (SMALL, (sparks, on("queued"), "t")),
    "runs-grouped-80x24": (SMALL, ("b", *"status", "enter", sparks)),
    "runs-grouped-120x40": (MIDDLE, ("b", *"mixer", "enter", sparks, "j", "space")),
    "runs-group-by": (SMALL, (sparks, "b")),
    "command": (SMALL, (sparks, on("completed"), "colon", *"canc")),
    "command-light": (MIDDLE, (sparks, "T", "colon")),
    "columns": (SMALL, (sparks, "C")),
    "run-curves-80x24": (SMALL, (on("completed"), "enter", curves, detail)),
    "run-curves-120x40": (MIDDLE, (on("completed"), "enter", curves, detail, "e")),
    "run-curves-200x60": (LARGE, (on("completed"), "enter", curves, detail)),
    "run-inspect": (MIDDLE, (on("completed"), "enter", curves, detail, "enter", "i", "L")),
    "run-running": (SMALL, (on("running"), "enter", curves, detail)),
    "run-queued": (SMALL, (on("queued"), "enter", detail)),
    "run-failed-events": (MIDDLE, (on("failed"), "enter", detail, "4")),
    "run-failed-log": (SMALL, (on("failed"), "enter", detail, "3", lambda app: len(app.screen.query_one("#log").lines))),  # type: ignore[attr-defined]
    "run-config": (SMALL, (on("completed"), "enter", detail, "2")),
    "run-origin": (MIDDLE, (on("completed"), "enter", detail, "5")),
    "run-system-none": (SMALL, (on("completed"), "enter", curves, detail, "6")),
    "ablations": (SMALL, ("a",)),
    "ablations-120x40": (MIDDLE, ("a", "j")),
    "ablations-200x60": (LARGE, ("a",)),
    "ablations-light": (MIDDLE, ("T", "a")),
    "ablation-80x24": (SMALL, ("a", "enter", sparks)),
    "ablation-120x40": (MIDDLE, ("a", "j", "enter", "right", "down", charts_of_cell, sparks)),
    "ablation-200x60": (LARGE, ("a", "j", "enter", charts_of_cell, sparks)),
    "ablation-light": (MIDDLE, ("T", "a", "enter", charts_of_cell, sparks)),
    "ablation-loss": (SMALL, ("a", "j", "enter", "m", "x", sparks)),
    "ablation-effects": (SMALL, ("a", "j", "enter", "f")),
    "compare": (MIDDLE, ("a", "j", "enter", "c", compared, lambda app: app.parameters)),
    "compare-80x24": (SMALL, ("a", "j", "enter", "c", compared, lambda app: app.parameters)),
    "compare-200x60": (LARGE, ("a", "j", "enter", "c", compared, lambda app: app.parameters)),
    "compare-light": (MIDDLE, ("T", "a", "j", "enter", "c", compared, lambda app: app.parameters)),
    "compare-differences": (SMALL, ("a", "j", "enter", "c", compared, lambda app: app.parameters, "d")),
    "sql": (SMALL, ("Q", ask, "enter", answered)),
    "sql-120x40": (MIDDLE, ("Q", ask, "enter", answered)),
    "sql-200x60": (LARGE, ("Q", ask, "enter", answered)),
    "sql-light": (MIDDLE, ("T", "Q", ask, "enter", answered)),
    "run-curves-light": (MIDDLE, ("T", on("completed"), "enter", curves, detail)),
    "help": (SMALL, (sparks, "question_mark")),
    "help-run-120x40": (MIDDLE, ("enter", curves, "question_mark")),
    "commands": (SMALL, (sparks, "at")),
}  # fmt: skip
QUERY = "SELECT status, COUNT(*) AS runs, ROUND(AVG(percent), 1) AS percent FROM v_runs GROUP BY status"


@pytest.mark.parametrize("name", CASES)
def test_screen(name: str, snap_compare: Compare, store: HomePaths, now: Clock) -> None:
    size, wanted = CASES[name]
    assert snap_compare(still(store, now), terminal_size=size, run_before=steps(*wanted, without_notices))


SYSTEM_SIZES = {"80x24": (SMALL, False), "120x40": (MIDDLE, False), "200x60": (LARGE, False), "light": (MIDDLE, True)}


@pytest.mark.parametrize("name", SYSTEM_SIZES)
def test_the_machine_of_a_run(name: str, snap_compare: Compare, store: HomePaths, now: Clock) -> None:
    size, light = SYSTEM_SIZES[name]
    busy_gpu(store)
    keys: tuple[Step, ...] = (on("running"), "enter", curves, detail, "6", *(["T"] if light else []))
    assert snap_compare(still(store, now), terminal_size=size, run_before=steps(*keys, without_notices))


def busy_gpu(paths: HomePaths) -> None:
    """Give the runs at work what a GPU and its host say of themselves."""
    with Repository(paths) as repository:
        for attempt in repository.running():
            rows = [
                (attempt.started_at + 5.0 * at, 33 * (at + 1), {
                    "system/gpu0_percent": 96.0 - 40 * (at % 7 == 3), "system/gpu0_memory_mb": 9_000.0 + 40 * at,
                    "system/gpu0_power_w": 340.0 + 12 * (at % 3), "system/gpu0_temperature_c": 41.0 + at,
                    "system/cpu_percent": 101.0 + at % 4, "system/memory_mb": 1_900.0 + at,
                    "system/host_cpu_percent": 31.0 + at % 5, "system/host_memory_percent": 22.0,
                })
                for at in range(30)
            ]  # fmt: skip
            facts = {"cpus": 16, "memory_mb": 131_072, "gpu": "NVIDIA H100 80GB HBM3"}
            batch = RecordBatch(rows, cursor=10**9, notes=[(attempt.started_at, "system", facts)])
            assert repository.record(attempt.run_id, attempt.number, batch)


CLUSTER: dict[str, tuple[tuple[int, int], dict[str, Any], tuple[str, ...]]] = {
    "80x24": (SMALL, {}, ()),
    "120x40": (MIDDLE, {}, ()),
    "200x60": (LARGE, {}, ()),
    "light": (MIDDLE, {}, ("T",)),
    "light-80x24": (SMALL, {}, ("T",)),
    "cpu-only": (MIDDLE, {"gpus": 0}, ()),
    "head-down": (MIDDLE, {"machines": (), "told": "the Ray head does not answer"}, ()),
    "silent": (SMALL, {"at": NOW - 75.0}, ()),
    "starting": (SMALL, {"phase": Phase.STARTING, "told": "starts a Ray head", "machines": (), "waiting": ()}, ()),
    "ended": (SMALL, {"pid": None, "phase": Phase.ENDED, "told": "it was asked to", "machines": ()}, ()),
    "vanished": (MIDDLE, {"pid": None}, ()),
}


@pytest.mark.parametrize("name", CLUSTER)
def test_the_cluster(
    name: str, snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, changes, keys = CLUSTER[name]
    pid = changes.get("pid", 4242)
    monkeypatch.setattr("tui.source.living_controller", lambda _paths: pid)
    busy_gpu(store)
    with Repository(store) as repository:
        repository.set_cluster(cluster_row(store, **{key: value for key, value in changes.items() if key != "pid"}))
    wanted = steps(sparks, "w", *keys, lambda app: app.screen._told, without_notices)  # type: ignore[attr-defined]
    assert snap_compare(still(store, now), terminal_size=size, run_before=wanted)


def cluster_row(paths: HomePaths, *, gpus: int = 4, **changes: Any) -> ClusterRow:
    """Return what a controller says that has the sample's runs at work on one machine and another one idle."""
    with Reader(paths) as reader:
        running = [run.id for run in reader.runs(statuses=["running"])]
        queued = [run.id for run in reader.runs(statuses=["queued"])][::-1]
    shares = ((0.5, (0,)), (0.5, (0,)), (1.0, (1,)), (2.0, (2, 3)))
    held = tuple(
        Holding(run, 1 + (place == 2), 2.0, share if gpus else 0.0, devices if gpus else ())
        for place, (run, (share, devices)) in enumerate(zip(running, shares, strict=False))
    )
    whys = ["asks for 2 GPUs, 0 free", "asks for 12 CPUs, 8 free"] + ["keeps room for larger runs before it"] * 20
    waiting = [Waiting(run, why) for run, why in zip(queued, whys, strict=False)]
    waiting[-1] = Waiting(waiting[-1].run_id, "pauses before its next attempt", NOW + 42.0)
    controller = {"pid": 4242, "host": "gpubox", "executor": "ray", "address": "",
                  "cluster": {"address": "127.0.0.1:41371"}, "started_at": NOW - 7530.0}  # fmt: skip
    machines = (Machine("a1", "gpubox 127.0.0.1", 16.0, gpus, held), Machine("b2", "cpubox 10.0.0.2", 8.0, 0))
    row = ClusterRow(NOW - 1.0, controller, Phase.WORKING, "", machines, tuple(waiting), len(queued))
    return replace(row, **changes)


def test_the_cluster_before_any_controller(snap_compare: Compare, store: HomePaths, now: Clock) -> None:
    wanted = steps("w", lambda app: app.screen._told, without_notices)  # type: ignore[attr-defined]
    assert snap_compare(still(store, now), terminal_size=SMALL, run_before=wanted)


def test_the_cluster_without_colour(
    snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("tui.source.living_controller", lambda _paths: 4242)
    with Repository(store) as repository:
        repository.set_cluster(cluster_row(store))
    wanted = steps(sparks, "w", lambda app: app.screen._told, without_notices)  # type: ignore[attr-defined]
    assert snap_compare(still(store, now), terminal_size=MIDDLE, run_before=wanted)


def test_a_comparison_without_colour(
    snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    wanted = steps("a", "j", "enter", "c", compared, lambda app: app.parameters, "enter", without_notices)
    assert snap_compare(still(store, now), terminal_size=MIDDLE, run_before=wanted)


def still(paths: HomePaths, now: Clock) -> MambaLab:
    """Return the application with a clock that stands."""
    return make_app(paths, now=now)


def without_notices(app: MambaLab) -> bool:
    """Take off notices, which go by the real clock; and the blinking of a cursor."""
    app.clear_notifications()
    for field in app.screen.query(Input):
        field.cursor_blink = False
    return True


def test_an_empty_store(snap_compare: Compare, tmp_path: Path, now: Clock) -> None:
    paths = HomePaths(tmp_path / ".mambalab")
    Repository(paths).close()
    assert snap_compare(still(paths, now), run_before=steps())


def test_no_store(snap_compare: Compare, tmp_path: Path, now: Clock) -> None:
    assert snap_compare(still(HomePaths(tmp_path / ".mambalab"), now), run_before=steps())


def test_a_newer_schema(snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(store.database)) as connection:
        connection.execute("PRAGMA user_version=99")
    monkeypatch.setattr("storage.connect.check_schema", _newer)
    assert snap_compare(still(store, now), run_before=steps())


def _newer(*_arguments: object) -> None:
    from storage.errors import SchemaTooNew

    raise SchemaTooNew("lab.db has schema 99, this mambalab knows up to 1. Update mambalab to open it.")


def test_a_locked_store_keeps_the_last_answer(
    snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.errors import StoreLocked

    def lock(_app: MambaLab) -> bool:
        def locked(_reader: Reader) -> int:
            raise StoreLocked("lab.db is held by another process")

        monkeypatch.setattr(Reader, "data_version", locked)
        return True

    wanted = steps(sparks, lock, lambda app: app.snapshot.state == "locked")
    assert snap_compare(still(store, now), run_before=wanted)


def test_without_colour_every_status_has_its_glyph(
    snap_compare: Compare, store: HomePaths, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(still(store, now), run_before=steps(sparks))


def test_a_terminal_that_is_too_small(snap_compare: Compare, store: HomePaths, now: Clock) -> None:
    app = still(store, now)
    assert snap_compare(
        app, terminal_size=(60, 20), run_before=lambda pilot: until(pilot, lambda: app.snapshot.complete)
    )
