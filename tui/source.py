"""Watches the store on a thread of its own and posts what has changed. The event loop never waits for SQLite.

`PRAGMA data_version` costs microseconds, so it is asked several times a second; rows are read only when it moved, and then
only those of the runs at work and of the runs that events name. Every few seconds, and after an action of our own, the
whole list is read again, because tags and archiving leave no event.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from textual.message import Message

from storage.cluster import ClusterRow, standing
from storage.errors import NotFound, SchemaTooNew, SchemaTooOld, StorageError, StoreLocked, StoreMissing
from storage.home import HomePaths
from storage.queries import Reader
from storage.rows import AblationRow
from storage.status import by_status
from tui.messages import ClusterRead, Detail, DetailRead, LogRead, ParametersRead, Snapshot, StoreChanged, StoreState
from tui.run_list import RunList, newest_event

if TYPE_CHECKING:
    from tui.curve_cache import CurveReader
    from tui.log_tail import LogTail

POLL_S = 0.15
FULL_EVERY_S = 10.0
FIRST_RUNS = (
    200  # read alone at the start, so that the first rows are on the screen before the other thousands are read
)
PAINT_S = 0.5  # how long the other thousands wait for those to be painted
STATES = {StoreMissing: StoreState.MISSING, SchemaTooNew: StoreState.NEWER, SchemaTooOld: StoreState.OLDER,
          StoreLocked: StoreState.LOCKED}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interest:
    """What the screen in front needs beside the lists.

    `detail` a run in full, `curves` runs whose metrics are drawn, `log` an attempt's output, `sparks` (run, metric) pairs,
    `parameters` runs whose number of parameters is asked for, `cluster` what the controller says of its cluster.
    """

    detail: str | None = None
    curves: tuple[str, ...] = ()
    log: tuple[str, int] | None = None
    sparks: tuple[tuple[str, str], ...] = ()
    parameters: tuple[str, ...] = ()
    asker: int = 0
    cluster: bool = False


def living_controller(paths: HomePaths) -> int | None:
    """Return the process that the controller's note names, where it is there. Its lock is left alone on purpose.

    Taking the lock for a moment, even shared, could make a controller that starts just then give up.
    """
    try:
        pid = int(json.loads(paths.controller_json.read_text(encoding="utf-8"))["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid


class StoreSource:
    """The thread. `watch` says what to read, `stop` ends it; what it finds goes to `post`."""

    def __init__(
        self, paths: HomePaths, post: Callable[[Message], object], *, now: Callable[[], float] = time.time
    ) -> None:
        self.paths = paths
        self.post = post
        self.now = now
        self.snapshot = Snapshot()
        self._reader: Reader | None = None
        self._file: tuple[int, int] | None = None
        self._version = -1
        self._list = RunList()
        self._interest = Interest()
        self._served = Interest()
        self._archived = False
        self._full_wanted = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._painted = threading.Event()
        self._curves: CurveReader | None = None
        self._log: LogTail | None = None
        self._looked_at = 0.0
        self._ablations_at = 0.0
        self._lag = False
        self._ablations: tuple[AblationRow, ...] = ()
        self._pid: int | None = None
        self._alive_at = 0.0
        self._cluster: ClusterRow | None = None
        self._told: tuple[ClusterRow | None, int | None] | None = None
        self._thread = threading.Thread(target=self._loop, name="store-source", daemon=True)

    def start(self) -> None:
        """Start watching; once is enough."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the thread is done with what it does."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def watch(self, interest: Interest) -> None:
        """Read this from now on, beside the lists."""
        if interest != self._interest:
            self._interest = interest
            self._wake.set()

    def painted(self) -> None:
        """Be told that the first rows are on the screen: the other thousands are read only then."""
        self._painted.set()

    def refresh(self, *, archived: bool | None = None) -> None:
        """Read the whole list again at once, with or without archived runs."""
        if archived is not None:
            self._archived = archived
        self._full_wanted = True
        self._wake.set()

    def _loop(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.poll()
            cost = time.monotonic() - began
            rest = 3 * min(cost, 1.0)  # a quarter of the interpreter's time at most: keys come first
            self._stop.wait(rest)
            self._wake.wait(max(0.0, POLL_S - rest))
            self._wake.clear()
        if self._reader is not None:
            self._reader.close()

    def poll(self) -> None:
        """Look once, and post what is new. Every error of the store becomes a state that the screens show."""
        try:
            self._read()
        except StorageError as error:
            state = next((state for kind, state in STATES.items() if isinstance(error, kind)), StoreState.BROKEN)
            if state is not StoreState.LOCKED:
                self._close()
            self._publish(replace(self.snapshot, state=state, message=str(error)))

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader, self._version, self._curves = None, -1, None

    def _read(self) -> None:
        self._reopen_where_replaced()
        if self._reader is None:
            self._reader = Reader(self.paths, timeout_s=0.5)
            self._file = _identity(self.paths)
            self._list = RunList()
            self._first_read(self._reader)
        version = self._reader.data_version()
        changed = version != self._version
        if changed:
            self._reader.check_schema()
        interest = self._interest
        self._version = version
        if changed or self._full_wanted or self._lag:
            self._read_lists(self._reader)
        elif self.snapshot.state is StoreState.LOCKED or self._controller_changed():
            self._publish(replace(self.snapshot, state=self._state(), message="", **self._control()))
        self._serve(self._reader, interest, changed=changed)

    def _reopen_where_replaced(self) -> None:
        now = time.monotonic()
        if self._reader is not None and now - self._looked_at > 1.0:
            self._looked_at = now
            if _identity(self.paths) != self._file:
                self._close()

    def _first_read(self, reader: Reader) -> None:
        self._pid = living_controller(self.paths)
        self._alive_at = time.monotonic()
        self._cluster = reader.cluster()
        newest = reader.runs(limit=FIRST_RUNS, include_archived=self._archived)
        self._ablations = tuple(reader.ablations()) if len(newest) < FIRST_RUNS else ()
        if len(newest) == FIRST_RUNS:
            self._publish(Snapshot(StoreState.READY, "", tuple(newest), counts=reader.count_runs(), **self._control()))
            self._painted.wait(PAINT_S)
        self._list.last_event = newest_event(reader)
        self._full_wanted = True

    def _read_lists(self, reader: Reader) -> None:
        now = time.monotonic()
        if self._full_wanted or self._list.read_at is None or now - self._list.read_at > FULL_EVERY_S:
            self._full_wanted = False
            self._list.full(reader, archived=self._archived)
        else:
            self._list.update(reader, archived=self._archived)
        self._lag = now - self._ablations_at < 0.5
        if not self._lag:
            self._ablations = tuple(reader.ablations(include_archived=self._archived))
            self._ablations_at = now
        self._cluster = reader.cluster()
        self._controller_changed()
        runs = list(self._list.rows.values())
        state = StoreState.READY if runs or self._ablations else StoreState.EMPTY
        self._publish(Snapshot(state, "", tuple(runs), self._ablations, complete=True, fields=self._list.fields,
                               counts=by_status(Counter(run.status for run in runs)), **self._control()))  # fmt: skip

    def _state(self) -> StoreState:
        return StoreState.READY if self._list.rows or self._ablations else StoreState.EMPTY

    def _controller_changed(self) -> bool:
        now = time.monotonic()
        if now - self._alive_at < 1.0:
            return False
        self._alive_at = now
        self._pid = living_controller(self.paths)
        return self._control() != {"controller": self.snapshot.controller, "standing": self.snapshot.standing}

    def _control(self) -> dict[str, Any]:
        """Return how controller and cluster are, for a snapshot."""
        return {"controller": self._pid is not None, "standing": standing(self._cluster, self._pid, self.now())[0]}

    def _publish(self, snapshot: Snapshot) -> None:
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            self.post(StoreChanged(snapshot))

    def _serve(self, reader: Reader, interest: Interest, *, changed: bool) -> None:
        before, self._served = self._served, interest
        another = interest.asker != before.asker
        if interest.detail and (changed or another or interest.detail != before.detail):
            self._read_detail(reader, interest.detail)
        told = (self._cluster, self._pid)
        if interest.cluster and (not before.cluster or told != self._told):
            self._told = told
            self.post(ClusterRead(*told))
        if interest.parameters and interest.parameters != before.parameters:
            self.post(ParametersRead({run_id: parameters_of(reader, run_id) for run_id in interest.parameters}))
        behind = self._curves is not None and self._curves.behind
        if (interest.curves or interest.sparks) and (changed or behind or interest != before):
            if self._curves is None:
                from tui.curve_cache import CurveReader  # numpy: only once there is something to draw

                self._curves = CurveReader(self.post, self._stop.is_set)
            self._curves.read(reader, interest.curves, interest.sparks, self._list.rows, again=another)
        if interest.log is not None:
            if self._log is None or (self._log.run_id, self._log.attempt) != interest.log:
                from tui.log_tail import LogTail

                self._log = LogTail(self.paths, *interest.log)
            lines, first = self._log.read()
            if lines or first:
                self.post(LogRead(*interest.log, tuple(lines), first))
        else:
            self._log = None

    def _read_detail(self, reader: Reader, run_id: str) -> None:
        try:
            self.post(
                DetailRead(
                    Detail(
                        run=reader.run(run_id),
                        facts=reader.run_facts(run_id),
                        attempts=tuple(reader.attempts(run_id)),
                        checkpoints=tuple(reader.checkpoints(run_id)),
                        events=tuple(reader.events(run_id)),
                        requests=tuple(reader.requests(run_id)),
                        notes=tuple(reader.notes(run_id)),
                        provenance=reader.provenance(run_id),
                    )
                )
            )
        except NotFound:
            self._full_wanted = True  # it was removed: the list says so at the next look


def parameters_of(reader: Reader, run_id: str) -> float:
    """Return how many parameters a run noted that its model has; 0 where it has not."""
    try:
        model = reader.run_facts(run_id).get("model")
    except NotFound:
        return 0.0
    found = model.get("parameters") if isinstance(model, dict) else None
    return float(found) if isinstance(found, int | float) else 0.0


def _identity(paths: HomePaths) -> tuple[int, int] | None:
    try:
        found = paths.database.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
