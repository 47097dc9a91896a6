"""The runs as last read, kept up with the store by small reads."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from storage.errors import NotFound
from storage.queries import Reader
from storage.rows import RunRow
from tui.filter_terms import Fields

MANY_EVENTS = 300  # past so many, reading every run is cheaper than one by one


class RunList:
    """The runs as last read, kept up with the store by small reads."""

    def __init__(self) -> None:
        self.rows: dict[str, RunRow] = {}
        self.fields = Fields()
        self.last_event = 0
        self.read_at: float | None = None  # the last full read; none yet where the first one failed

    def full(self, reader: Reader, *, archived: bool) -> None:
        """Read all runs. Rows that are as before keep their object, and with it what was worked out from it."""
        latest = reader.events(after=self.last_event, limit=1000)
        while latest:
            self.last_event = latest[-1].id
            latest = reader.events(after=self.last_event, limit=1000)
        before = self.rows
        fresh, new = {}, []
        for row in reader.runs(include_archived=archived):
            old = before.get(row.id)
            if old is not row and old == row:
                row = old
            elif old is not row:
                new.append(row)
            fresh[row.id] = row
        self.rows = fresh
        if new:  # names are only ever added: those of a run that is hidden now may still be asked for
            self.fields = fields_of(new) if not before else merged(self.fields, fields_of(new))
        self.read_at = time.monotonic()

    def update(self, reader: Reader, *, archived: bool) -> None:
        """Read the runs at work and those that changed their state."""
        changed = {row.id: row for row in reader.runs(statuses=("running",), include_archived=archived)}
        events = reader.events(after=self.last_event, limit=MANY_EVENTS + 1)
        if len(events) > MANY_EVENTS:
            self.full(reader, archived=archived)
            return
        if events:
            self.last_event = events[-1].id
        touched = {event.run_id for event in events if event.run_id} | {
            row.id for row in self.rows.values() if row.status == "running"
        }
        for run_id in touched - changed.keys():
            try:
                changed[run_id] = reader.run(run_id)
            except NotFound:
                self.rows.pop(run_id, None)
        new = [row for run_id, row in changed.items() if run_id not in self.rows]
        self.rows.update(changed)
        unknown = {key for row in changed.values() for key in row.metrics} - set(self.fields.metrics)
        if new or any(event.ablation_id and not event.run_id for event in events):
            self.full(reader, archived=archived)
        elif unknown:
            self.fields = replace(self.fields, metrics=frozenset({*self.fields.metrics, *unknown}))
        if not archived and any(row.archived for row in changed.values()):
            self.rows = {run_id: row for run_id, row in self.rows.items() if not row.archived}


def newest_event(reader: Reader) -> int:
    """Return the number of the last event by a few probes: there may be many, and none of them need be read."""
    low, step = 0, 1
    while reader.events(after=low + step, limit=1):
        low, step = low + step, step * 2
    while step > 1:
        step //= 2
        if reader.events(after=low + step, limit=1):
            low += step
    found = reader.events(after=low, limit=1)
    return found[0].id if found else low


def merged(one: Fields, other: Fields) -> Fields:
    """Return the names of both."""
    metrics, config, axes = {*one.metrics, *other.metrics}, {*one.config, *other.config}, {*one.axes, *other.axes}
    if (len(metrics), len(config), len(axes)) == (len(one.metrics), len(one.config), len(one.axes)):
        return one
    return Fields(frozenset(metrics), frozenset(config), frozenset(axes))


def fields_of(runs: Iterable[RunRow]) -> Fields:
    """Return the names that filters may use: all metrics, and the configuration of one run of each kind."""
    metrics: set[str] = set()
    kinds: dict[tuple[str | None, str, int], RunRow] = {}
    for run in runs:
        metrics.update(run.metrics)
        # specs of one task have the same keys; their text differs in length by the values alone
        kinds.setdefault((run.ablation_id, run.trial_label, 0 if run.ablation_id else len(run.spec_json)), run)
    config: set[str] = set()
    axes: set[str] = set()
    for run in list(kinds.values())[:300]:
        config.update(run.config)
        axes.update(run.axis_labels)
    return Fields(frozenset(metrics), frozenset(config), frozenset(axes))
