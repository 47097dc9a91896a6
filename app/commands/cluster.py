"""`mambalab cluster`: machines and GPUs with who holds them, the queue with why it waits, and how the controller is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from app.commands.options import Json

if TYPE_CHECKING:
    from storage.cluster import ClusterRow
    from storage.home import HomePaths
    from storage.queries import RunRow


def cluster(context: typer.Context, *, as_json: Json = False) -> None:
    """Show machines and GPUs with who holds them, the queue with why each run waits, and how the controller is."""
    import time

    from app.console import data_json, say
    from app.home import home_paths, reader
    from storage.cluster import standing

    paths = home_paths(context)
    with reader(context) as store:
        row = store.cluster()
        runs = {run.id: run for run in store.runs(statuses=("running", "queued"), include_archived=True)}
    now = time.time()
    kind, words = standing(row, living_controller(paths), now)
    if as_json:
        said = None if row is None else {"at": row.at, **row.to_json()}
        data_json({"standing": kind.value, "told": words, "cluster": said})
        return
    say(words if row is None else f"{words}; {_about(row, now)}")
    if row is not None:
        _table(row, runs, now)


def living_controller(paths: HomePaths) -> int | None:
    """Return the process of the controller that holds the store, 0 where it has yet to say which; None where none does."""
    from workers.jobs.lock import is_held, read_record

    record = read_record(paths)
    if not is_held(paths.controller_lock):
        return None
    return record.pid if record is not None else 0


def _about(row: ClusterRow, now: float) -> str:
    from app.formats import ago

    who = row.controller
    where = f" at {row.address}" if row.address else ""
    started = ago(float(who.get("started_at", now)), now)
    return (
        f"process {who.get('pid')} on {who.get('host')}, executor {who.get('executor')}{where}, "
        f"started {started}, heard {ago(row.at, now)}"
    )


def _table(row: ClusterRow, runs: dict[str, RunRow], now: float) -> None:
    from app.console import say, table
    from app.grid import Grid, Layout
    from tui.cluster_lines import cluster_lines, host_use

    lines = cluster_lines(row, runs, now)
    names = [machine.host or machine.name for machine in row.machines] + ["queue"]
    rows = [
        [names[line.section], line.place, line.run_id, line.title, line.status,
         "" if line.progress is None else f"{line.progress:.0%}", line.share, line.use or line.why]
        for line in lines
    ]  # fmt: skip
    columns = ["machine", "place", "id", "run", "status", "done", "share", "uses, or waits because"]
    table(
        Grid(columns, rows, Layout(right=("done",), drop=("share", "status"), shrink=("machine", "run", columns[-1])))
    )
    for machine in row.machines:
        gpus = f", {machine.gpus_held:g} of {machine.gpus} GPUs in use" if machine.gpus else " in use, no GPU"
        use = host_use(machine, runs)
        say(
            f"{machine.host or machine.name}: {machine.cpus_held:g} of {machine.cpus:g} CPUs{gpus}"
            f"{f'; {use}' if use else ''}"
        )
    if row.waiting_total > len(row.waiting):
        listed = f"; the first {len(row.waiting)} are listed" if row.waiting else ""
        say(f"{row.waiting_total} runs wait{listed}")
