"""What a controller last said of its cluster: machines, who holds which share, and why the queue waits.

Standard library only: the controller writes it, the command line and the terminal UI read it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

SILENT_S = 20.0  # it says something every 5 s


class Phase(StrEnum):
    """What the controller was doing."""

    STARTING = "starting"
    WORKING = "working"
    ENDED = "ended"


class Standing(StrEnum):
    """How things are, as far as a reader can tell."""

    NONE = "none"  # no controller has ever worked on this store
    STARTING = "starting"
    LIVE = "live"
    DOWN = "cluster down"  # the controller lives, and its cluster does not answer
    SILENT = "silent"  # its process lives, and has said nothing for a while
    ENDED = "ended"
    VANISHED = "vanished"  # its process is gone, and it did not say that it would go


@dataclass(frozen=True, slots=True)
class Holding:
    """What an attempt at work holds. `devices` are the ledger's places for GPUs on the machine."""

    run_id: str
    attempt: int
    cpus: float
    gpus: float
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """One node: its executor's name for it, where it is, what it has, and who holds some of that."""

    name: str
    host: str
    cpus: float
    gpus: int
    holdings: tuple[Holding, ...] = ()

    @property
    def cpus_held(self) -> float:
        """CPUs in use."""
        return sum(holding.cpus for holding in self.holdings)

    @property
    def gpus_held(self) -> float:
        """GPUs in use, shares of one included."""
        return sum(holding.gpus for holding in self.holdings)

    def on_device(self, index: int) -> tuple[Holding, ...]:
        """Return who holds some of a GPU."""
        return tuple(holding for holding in self.holdings if index in holding.devices)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued run, why it waits, and when it is tried again where it waits for that."""

    run_id: str
    why: str
    due: float | None = None


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """The cluster at one moment.

    Attributes:
        at: when the controller last said anything, in seconds since 1970.
        controller: what it says of itself: pid, host, executor, address, cluster, started_at.
        told: what it does while it starts, what is wrong with the cluster, or why it ended; empty for nothing special.
        waiting: the first runs of the queue, in its order; `waiting_total` counts all.
    """

    at: float
    controller: Mapping[str, Any]
    phase: Phase
    told: str = ""
    machines: tuple[Machine, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    waiting_total: int = 0

    @property
    def address(self) -> str:
        """HOST:PORT of the Ray head; empty where there is none."""
        own = self.controller.get("cluster") or {}
        return str(self.controller.get("address") or own.get("address") or "")

    def to_json(self) -> dict[str, Any]:
        """Return everything but the moment."""
        tree = asdict(self)
        del tree["at"]
        return tree

    @classmethod
    def from_json(cls, at: float, tree: Mapping[str, Any]) -> Self:
        """Read what `to_json` made."""
        machines = tuple(
            Machine(**{**machine, "holdings": tuple(_holding(holding) for holding in machine["holdings"])})
            for machine in tree["machines"]
        )
        waiting = tuple(Waiting(**one) for one in tree["waiting"])
        phase = Phase(tree["phase"])
        return cls(at, tree["controller"], phase, tree["told"], machines, waiting, tree["waiting_total"])


def _holding(tree: Mapping[str, Any]) -> Holding:
    return Holding(**{**tree, "devices": tuple(tree["devices"])})


def standing(row: ClusterRow | None, pid: int | None, now: float) -> tuple[Standing, str]:
    """Return how things are, and that in a sentence.

    Args:
        pid: the process of the living controller; None where none lives.
    """
    if pid is None:
        if row is None:
            return Standing.NONE, "no controller has worked on this store yet"
        if row.phase is Phase.ENDED:
            return Standing.ENDED, f"the controller has ended: {row.told}"
        return Standing.VANISHED, f"the controller (process {row.controller.get('pid')}) is gone without a word"
    if row is None or row.controller.get("pid") != pid:
        return Standing.STARTING, "the controller starts"
    if row.phase is Phase.ENDED:
        return Standing.ENDED, f"the controller ends: {row.told}"
    if now - row.at > SILENT_S:
        return Standing.SILENT, "the controller lives and says nothing"
    if row.phase is Phase.STARTING:
        return Standing.STARTING, f"the controller {row.told or 'starts'}"
    return (Standing.DOWN, row.told) if row.told else (Standing.LIVE, "the controller is at work")


def read_cluster(connection: sqlite3.Connection) -> ClusterRow | None:
    """Return what a controller last said; None where none ever did, as in a store of an older schema."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'cluster'").fetchone():
        return None
    found = connection.execute("SELECT at, state FROM cluster").fetchone()
    return None if found is None else ClusterRow.from_json(found[0], json.loads(found[1]))


def write_cluster(connection: sqlite3.Connection, row: ClusterRow) -> None:
    """Overwrite the one row."""
    connection.execute(
        "INSERT INTO cluster (id, at, state) VALUES (1, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET at = excluded.at, state = excluded.state",
        (row.at, json.dumps(row.to_json(), separators=(",", ":"))),
    )
