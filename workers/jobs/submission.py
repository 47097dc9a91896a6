"""Puts runs into the queue and makes sure that a controller lives. Imports neither Ray nor torch, and returns at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from storage.home import HomePaths
from storage.records import NewAblation, NewRun, Submitted
from storage.repository import Repository
from workers.ablation import AblationSpec, Axis, PlannedRun
from workers.jobs.detach import EXIT_TAKEN, SubmitOptions, daemon_command, spawn_controller
from workers.jobs.errors import ControllerError
from workers.jobs.files import tail
from workers.jobs.lock import is_held, read_record, sole_spawner
from workers.jobs.process import ProcessId
from workers.jobs.provenance import capture
from workers.specs import RunSpec, flatten, spec_hash

__all__ = [
    "SubmitOptions",
    "Submitted",
    "check_compatible",
    "controller_alive",
    "ensure_controller",
    "new_run",
    "planned_run",
    "submit_ablation",
    "submit_run",
]

START_TIMEOUT_S = 30.0  # until the lock is held; Ray starts after that
POLL_S = 0.01


def submit_ablation(
    paths: HomePaths, spec: AblationSpec, plan: Sequence[PlannedRun], options: SubmitOptions
) -> Submitted:
    """Store an ablation and its planned runs, queued, in one transaction. Starts nothing (`ensure_controller` does).

    Raises:
        ControllerError: a living controller runs attempts in another way than the options ask; nothing is written.
        StorageError: the store cannot be written.
    """
    check_compatible(paths, options)
    ablation = NewAblation(
        name=spec.name,
        question=spec.question,
        spec=spec.model_dump(mode="json"),
        metric=spec.metric.key,
        direction=spec.metric.direction,
        secondary=spec.metric.also,
        axes=[axis.title for axis in spec.axes],
        seeds=spec.seeds,
    )
    runs = [planned_run(spec, planned, options) for planned in plan]
    with Repository(paths) as repository:
        return repository.submit(ablation=ablation, runs=runs, provenance=capture(options.command))


def submit_run(paths: HomePaths, spec: RunSpec, *, name: str, options: SubmitOptions) -> Submitted:
    """Store a single run, queued. Starts nothing. Raises as `submit_ablation` does."""
    check_compatible(paths, options)
    with Repository(paths) as repository:
        return repository.submit(
            ablation=None, runs=[new_run(spec, name, options)], provenance=capture(options.command)
        )


def controller_alive(paths: HomePaths) -> bool:
    """Say whether a controller holds the store."""
    return is_held(paths.controller_lock)


def check_compatible(paths: HomePaths, options: SubmitOptions) -> None:
    """Raise ControllerError where a living controller would run a submission in another way than it asks."""
    if not controller_alive(paths):
        return
    record = read_record(paths)
    if record is None or (record.here and not ProcessId(record.pid, record.created).alive()):
        return  # one starts just now, and has yet to say what it is
    if record.executor != options.executor:
        raise ControllerError(
            f"the controller of {paths.root} (process {record.pid}) runs attempts with executor {record.executor!r}, and "
            f"{options.executor!r} is asked for. Leave --executor out to use that one, or end it first: `mambalab down`."
        )
    if options.address is not None and record.address != options.address:
        raise ControllerError(
            f"the controller of {paths.root} (process {record.pid}) uses {record.address or 'a Ray head of its own'}, and "
            f"--address {options.address} is asked for. End it first: `mambalab down`."
        )


def ensure_controller(paths: HomePaths, options: SubmitOptions) -> None:
    """Return once a controller holds the store, starting one where none does. It outlives this process and its terminal.

    Raises:
        ControllerError: it did not start; the message ends with the last lines of its log.
    """
    if options.executor == "inline":
        raise ControllerError(
            "the inline executor has no controller of its own: workers.jobs.inline runs the queue here"
        )
    # One at a time: a controller that lost the race could still be starting, and take the store after a `down`
    with sole_spawner(paths):
        if controller_alive(paths):
            check_compatible(paths, options)
        else:
            _start_controller(paths, options)


def _start_controller(paths: HomePaths, options: SubmitOptions) -> None:
    command = daemon_command(paths, options)
    started = spawn_controller(paths, command)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not controller_alive(paths):
        code = started.poll()
        if code == 0:
            return  # it found nothing to do, or everything done, and has ended already
        if code == EXIT_TAKEN:
            started = spawn_controller(paths, command)  # whoever had taken the store ended at the same moment
        elif code is not None:
            raise ControllerError(
                f"the controller ended at once (exit code {code}). The end of its log, {paths.controller_log}:\n"
                f"{tail(paths.controller_log)}"
            )
        if time.monotonic() > deadline:
            raise ControllerError(
                f"the controller (process {started.pid}) did not start within {START_TIMEOUT_S:.0f} s. The end of its "
                f"log, {paths.controller_log}:\n{tail(paths.controller_log)}"
            )
        time.sleep(POLL_S)


def planned_run(spec: AblationSpec, planned: PlannedRun, options: SubmitOptions) -> NewRun:
    """Return a planned run of an ablation as it is stored."""
    trial = planned.trial
    config = flatten(planned.spec.model_dump(mode="json"))
    return new_run(
        planned.spec,
        f"{spec.name}/{trial.index}-s{planned.spec.seed}",
        options,
        trial_index=trial.index,
        trial_label=trial.label,
        axis_labels=dict(trial.labels),
        axis_values={axis.title: _axis_value(axis, trial.labels[axis.title], config) for axis in spec.axes},
    )


def _axis_value(axis: Axis, label: str, config: Mapping[str, Any]) -> Any:
    """Return what a trial has on an axis: the key's own value, or the label where a value changes several keys."""
    return label if axis.key is None else config.get(axis.key, label)


def new_run(spec: RunSpec, name: str, options: SubmitOptions, **more: Any) -> NewRun:
    """Return a run as it is stored; `more` are further fields of `NewRun`."""
    resources = spec.resources
    return NewRun(
        name=name,
        spec=spec.model_dump(mode="json"),
        spec_hash=spec_hash(spec),
        seed=spec.seed,
        cpus=resources.cpus,
        gpus=None if resources.gpus == "auto" else float(resources.gpus),
        max_attempts=resources.max_attempts,
        total_steps=spec.train.steps,
        priority=options.priority,
        **more,
    )
