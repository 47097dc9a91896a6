"""The cluster in lines: each GPU and who holds it, who runs on CPUs alone, and the queue with its reasons.

Without Textual: `mambalab cluster` prints the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from storage.cluster import ClusterRow, Holding, Machine
from storage.rows import RunRow
from tui.format import bytes_size, duration
from tui.progress import share_of

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ClusterLine:
    """One line: a part of a machine and who holds it, or a place in the queue. `section` is the machine's, or the queue's."""

    key: str
    section: int
    place: str
    run_id: str = ""
    status: str = ""
    title: str = ""
    progress: float | None = None
    share: str = ""
    use: str = ""
    why: str = ""


def cluster_lines(row: ClusterRow, runs: Mapping[str, RunRow], now: float) -> list[ClusterLine]:
    """Return the lines of all machines, then those of the queue."""
    lines: list[ClusterLine] = []
    for section, machine in enumerate(row.machines):
        lines += _machine_lines(section, machine, runs)
    last = len(row.machines)
    for place, waiting in enumerate(row.waiting, 1):
        run = runs.get(waiting.run_id)
        due = f", in {duration(waiting.due - now)}" if waiting.due is not None and waiting.due > now else ""
        lines.append(
            ClusterLine(f"queue {waiting.run_id}", last, f"{place}.", waiting.run_id, run.status if run else "queued",
                        _title(run, waiting.run_id), share=_priority(run), why=f"{waiting.why}{due}")
        )  # fmt: skip
    return lines


def _machine_lines(section: int, machine: Machine, runs: Mapping[str, RunRow]) -> list[ClusterLine]:
    lines = []
    for device in range(machine.gpus):
        holders = machine.on_device(device)
        lines += [_held(f"{section} gpu {device}", section, f"GPU {device}", holding, runs, holding.devices.index(device))
                  for holding in holders]  # fmt: skip
        if not holders:
            lines.append(ClusterLine(f"{section} gpu {device}", section, f"GPU {device}", title="free"))
    lines += [
        _held(f"{section} cpu", section, "CPU", holding, runs) for holding in machine.holdings if not holding.devices
    ]
    if not lines:
        lines.append(ClusterLine(f"{section} cpu", section, "CPU", title="free"))
    return lines


def _held(
    key: str, section: int, place: str, holding: Holding, runs: Mapping[str, RunRow], gpu: int | None = None
) -> ClusterLine:
    run = runs.get(holding.run_id)
    part = f"{holding.gpus if holding.gpus < 1 else 1:g} GPU " if gpu is not None else ""
    attempt = f", attempt {holding.attempt}" if holding.attempt > 1 else ""
    return ClusterLine(
        f"{key} {holding.run_id}",
        section,
        place,
        holding.run_id,
        run.status if run else "running",
        _title(run, holding.run_id),
        share_of(run) if run else None,
        f"{part}{holding.cpus:g} CPU",
        f"{_use(run, gpu)}{attempt}".removeprefix(", "),
    )


def _title(run: RunRow | None, run_id: str) -> str:
    """Return what tells a run from its neighbours first: its trial, its seed, then its ablation."""
    if run is None:
        return run_id
    return " · ".join(filter(None, (run.trial_label, f"seed {run.seed}", run.ablation or run.name)))


def _priority(run: RunRow | None) -> str:
    return f"priority {run.priority}" if run is not None and run.priority else ""


def _use(run: RunRow | None, gpu: int | None) -> str:
    """Return what a run last said that it uses: of its GPU of that number, or of CPU and memory."""
    said = run.metrics if run is not None else {}
    if gpu is not None:
        form = (("percent", "{:.0f}%"), ("memory_mb", ""), ("power_w", "{:.0f}W"), ("temperature_c", "{:.0f}°C"))
        found = [(text, said.get(f"system/gpu{gpu}_{name}")) for name, text in form]
    else:
        found = [("{:.0f}% CPU", said.get("system/cpu_percent")), ("", said.get("system/memory_mb"))]
    return "  ".join(text.format(value) if text else bytes_size(int(value * MIB))
                     for text, value in found if value is not None and value == value)  # fmt: skip


def host_use(machine: Machine, runs: Mapping[str, RunRow]) -> str:
    """Return how busy a machine is, as the run there that spoke last says; empty where none does."""
    told = [run for holding in machine.holdings if (run := runs.get(holding.run_id)) is not None]
    told = [run for run in told if "system/host_cpu_percent" in run.metrics]
    if not told:
        return ""
    newest = max(told, key=lambda run: run.heartbeat_at or 0.0)
    memory = newest.metrics.get("system/host_memory_percent")
    busy = f"CPUs {newest.metrics['system/host_cpu_percent']:.0f} % busy"
    return busy if memory is None else f"{busy}, memory {memory:.0f} %"
