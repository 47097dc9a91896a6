"""Tells the store how the cluster is, for whoever reads the store alone: machines, holders, and why the queue waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from storage.cluster import ClusterRow, Holding, Machine, Phase, Waiting
from storage.home import HomePaths
from storage.repository import Repository
from workers.jobs.clock import Clock
from workers.jobs.ledger import Ledger
from workers.jobs.watch import Watch

LOOK_EVERY_S = 1.0
SAY_EVERY_S = 5.0  # a sign of life, where nothing has changed
QUEUE_SHOWN = 64


def announce(paths: HomePaths, controller: Mapping[str, Any], now: float, told: str) -> None:
    """Say what a controller does before its loop begins; what is there of a cluster is not known yet."""
    with Repository(paths) as repository:
        row = ClusterRow(now, dict(controller), Phase.STARTING, told, waiting_total=repository.count_waiting())
        repository.set_cluster(row)


@dataclass(slots=True)
class ClusterState:
    """Writes the one row where something has changed, and a sign of life now and then.

    Attributes:
        controller: what the controller says of itself (`ControllerRecord`).
    """

    repository: Repository
    ledger: Ledger
    watch: Watch
    clock: Clock
    controller: Mapping[str, Any]
    _due: float = 0.0
    _said_at: float = field(default=float("-inf"))
    _said: ClusterRow | None = None

    def tick(self) -> None:
        """Look, once a second at most, and say what is new."""
        now = self.clock.monotonic()
        if now < self._due:
            return
        self._due = now + LOOK_EVERY_S
        row = self._row(Phase.WORKING, self._trouble())
        if row != self._said or now - self._said_at >= SAY_EVERY_S:
            self._say(row)

    def end(self, why: str) -> None:
        """Say that the controller ends, and why: its machines are nobody's now, and the queue waits for another one."""
        row = self._row(Phase.ENDED, why)
        waiting = tuple(Waiting(one.run_id, "no controller works on the queue") for one in row.waiting)
        self._say(replace(row, machines=(), waiting=waiting))

    def _say(self, row: ClusterRow) -> None:
        self.repository.set_cluster(replace(row, at=self.clock.now()))
        self._said, self._said_at = row, self.clock.monotonic()

    def _trouble(self) -> str:
        if self.ledger.nodes:
            return ""
        return "the Ray head does not answer" if self.watch.executor.name == "ray" else "there is no machine"

    def _row(self, phase: Phase, told: str) -> ClusterRow:
        """Return how things are, its moment left out so that two rows can be compared."""
        holdings: dict[str, list[Holding]] = {}
        for run_id, placement in self.ledger.held().items():
            watched = self.watch.active.get(run_id)
            share = placement.share
            holding = Holding(run_id, watched.number if watched else 0, share.cpus, share.gpus, placement.devices)
            holdings.setdefault(placement.node, []).append(holding)
        machines = tuple(
            Machine(node.name, node.host, node.cpus, node.gpus, tuple(holdings.get(node.name, ())))
            for node in self.ledger.nodes
        )
        total = self.repository.count_waiting()
        waiting = tuple(self._waiting()) if total else ()
        return ClusterRow(0.0, self.controller, phase, told, machines, waiting, total)

    def _waiting(self) -> list[Waiting]:
        now = self.clock.now()
        found = []
        for run_id, num, priority, cpus, gpus, not_before in self.repository.queue_head(QUEUE_SHOWN):
            if not_before is not None and not_before > now:
                found.append(Waiting(run_id, "pauses before its next attempt", not_before))
                continue
            why = self.ledger.why_waits(self.ledger.share_of(cpus, gpus), (-priority, num))
            found.append(Waiting(run_id, why or "starts next"))
        return found
