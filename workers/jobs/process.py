"""Processes told apart for certain: a process id alone is not enough, since ids are used again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import psutil

_CLOCK_SLACK_S = 0.05  # creation times are counted in ticks; a correction of the clock shifts none of them on Linux


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this machine: its id, and when it was created (seconds since 1970)."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that now has this id, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `to_json` made."""
        return cls(int(tree["pid"]), float(tree["created"]))

    def to_json(self) -> dict[str, Any]:
        """Return the process as JSON."""
        return {"pid": self.pid, "created": self.created}

    def process(self) -> psutil.Process | None:
        """Return the process while it lives; None once it ended (a zombie has), or another one has its id."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) <= _CLOCK_SLACK_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Say whether the process still runs."""
        return self.process() is not None

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False where the process is gone."""
        found = self.process()
        if found is None:
            return False
        try:
            found.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True


def end_tree(roots: Iterable[ProcessId], *, grace_s: float) -> list[ProcessId]:
    """End processes and all their descendants: SIGTERM, and SIGKILL after `grace_s`. Return those that still live.

    The tree is collected before the first signal: children of a dead process belong to nobody.
    """
    tree: dict[int, psutil.Process] = {}
    for root in roots:
        found = root.process()
        if found is None:
            continue
        tree[found.pid] = found
        try:
            tree.update({child.pid: child for child in found.children(recursive=True)})
        except psutil.NoSuchProcess:
            continue
    return end_processes(list(tree.values()), grace_s=grace_s)


def end_processes(processes: list[psutil.Process], *, grace_s: float) -> list[ProcessId]:
    """End exactly these processes: SIGTERM, and SIGKILL after `grace_s`. Return those that still live."""
    _signal(processes, signal.SIGTERM)
    left = _wait(processes, grace_s)
    _signal(left, signal.SIGKILL)
    left = _wait(left, 5.0)
    return [identity for process in left if (identity := ProcessId.of(process.pid)) is not None]


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil compares creation times first
        except psutil.NoSuchProcess:
            continue


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return those that live on after so long; a zombie is dead, whoever fails to reap it."""
    deadline = time.monotonic() + seconds
    left = processes
    while True:
        left = [process for process in left if _lives(process)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def count_gpus(environment: Mapping[str, str]) -> int:
    """Return how many NVIDIA GPUs this machine offers, without importing torch: 0 where there is no driver.

    CUDA_VISIBLE_DEVICES, where set, says which of them count.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 0
    return len([line for line in listed.stdout.splitlines() if line.startswith("GPU ")])
