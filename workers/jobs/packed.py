"""A worker that serves several attempts at once: the runs of an ensemble, in one process.

Each attempt keeps its own folder, with its spool, its result and the name of the process, so that whoever looks at one of
them alone finds what it would of a worker of its own. An attempt is asked to stop by a file in its folder, and its result is
written as soon as it has ended; SIGTERM asks all of them. What ends the process ends every attempt that has no result yet.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from storage.home import AttemptPaths
from workers.errors import SpecError
from workers.jobs.attempt import EXIT_CODES, AttemptSpec, Outcome, WorkerExit
from workers.jobs.errors import SpoolError, SpoolTakenError
from workers.jobs.files import write_json
from workers.jobs.sink import SpoolSink
from workers.jobs.system import sampling
from workers.jobs.worker import (
    STOP_FILE,
    began_at,
    claim,
    failure,
    hold_leash,
    limit_gpu_memory,
    stop_event,
    to_outcome,
)

if TYPE_CHECKING:
    from workers.specs import RunSpec
    from workers.training.context import RunContext
    from workers.training.ensemble import Ended

    Ensemble = Callable[..., Sequence[Ended]]

LOOK_EVERY_S = 0.1  # for the file that asks an attempt to stop


def work_together(leader: AttemptSpec) -> int:
    """Run an ensemble's attempts as the whole business of this process, and return its exit code."""
    stop = stop_event()
    seats = _take_seats([leader, *(AttemptSpec.from_json(tree) for tree in leader.members)], stop.is_set)
    if not seats:
        return WorkerExit.DUPLICATE
    if leader.leash:
        hold_leash([seat.sink for seat in seats])
    with sampling(leader, *(seat.sink for seat in seats)):
        _run(leader, seats)
    codes = [EXIT_CODES[seat.outcome.status] for seat in seats if seat.outcome is not None]
    return next((code for code in (WorkerExit.FAILED, WorkerExit.STOPPED) if code in codes), WorkerExit.COMPLETED)


@dataclass(slots=True)
class _Seat:
    """One attempt at work here."""

    attempt: AttemptSpec
    sink: SpoolSink
    asked_all: Callable[[], bool]
    outcome: Outcome | None = None
    _look_at: float = 0.0
    _asked: bool = field(default=False)

    def should_stop(self) -> bool:
        """Say whether this attempt, or all of them, have been asked to stop."""
        now = time.monotonic()
        if not self._asked and now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._asked = (self.attempt.path / STOP_FILE).exists()
        return self._asked or self.asked_all()

    def finish(self, outcome: Outcome) -> None:
        """Write the attempt's last word."""
        try:
            self.sink.close()
        except SpoolError as error:
            if outcome.status != "failed":
                outcome = failure(error)
        self.outcome = outcome
        if outcome.traceback is not None:
            sys.stderr.write(f"{self.attempt.key}:\n{outcome.traceback}")
        write_json(AttemptPaths(self.attempt.path).result, outcome.to_json())


def _take_seats(attempts: Sequence[AttemptSpec], asked_all: Callable[[], bool]) -> list[_Seat]:
    """Open every attempt's spool and say who works on it; one that another process works on is left to that."""
    seats = []
    for attempt in attempts:
        attempt.path.mkdir(parents=True, exist_ok=True)
        try:
            sink = SpoolSink(AttemptPaths(attempt.path).spool)
        except SpoolTakenError as error:
            sys.stderr.write(f"{error}\n")
            continue
        claim(attempt)
        if attempt.follows:
            _share_log(AttemptPaths(attempts[0].path).log, AttemptPaths(attempt.path).log)
        seats.append(_Seat(attempt, sink, asked_all))
    return seats


def _share_log(ours: Path, log: Path) -> None:
    """Let a member's log be this process's, by another name for the same file."""
    try:
        os.link(ours, log)
    except OSError as error:  # there is none to share, or the file system knows no such names
        sys.stderr.write(f"{log}: is not shared: {error}\n")


def _run(leader: AttemptSpec, seats: Sequence[_Seat]) -> None:
    """Run all attempts; each is finished when this returns."""
    try:
        ensemble = _load(leader.ensemble)
        limit_gpu_memory(leader.gpus)
        valid, specs, contexts = _understand(seats)

        def ended(index: int, outcome: Ended) -> None:
            valid[index].finish(failure(outcome) if isinstance(outcome, Exception) else to_outcome(outcome))

        if valid:
            ensemble(specs, contexts, ended=ended)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the runs' result, not this process's failure
        outcome = failure(error)
    else:
        outcome = failure(RuntimeError("the ensemble ended without a word about this run"))
    for seat in seats:
        if seat.outcome is None:
            seat.finish(outcome)


def _understand(seats: Sequence[_Seat]) -> tuple[list[_Seat], list[RunSpec], list[RunContext]]:
    """Return the attempts whose specs are valid, with these and what they are given; finish the others."""
    from workers.specs import RunSpec
    from workers.training.context import RunContext

    valid, specs, contexts = [], [], []
    for seat in seats:
        attempt = seat.attempt
        try:
            spec = RunSpec.model_validate(attempt.spec, strict=False)
        except ValueError as error:
            seat.finish(failure(error))
            continue
        directory = Path(attempt.run_directory)
        directory.mkdir(parents=True, exist_ok=True)
        valid.append(seat)
        specs.append(spec)
        contexts.append(
            RunContext(attempt.run_id, attempt.number, directory, seat.sink, seat.should_stop, began=began_at(attempt))
        )
    return valid, specs, contexts


def _load(name: str) -> Ensemble:
    module, _, function = name.partition(":")
    try:
        return cast("Ensemble", getattr(importlib.import_module(module), function))
    except AttributeError as error:
        raise SpecError(f"ensemble {name!r}: {error}. Expected module:function.") from error
