"""Ends what a store started: its controller, that one's Ray head, and the workers. Nothing else is touched."""

from __future__ import annotations

import signal
import subprocess
import time

import psutil

from storage.errors import StoreMissing
from storage.home import HomePaths
from storage.queries import Reader
from workers.jobs.detach import SubmitOptions, daemon_command, forget_ended, spawn_controller
from workers.jobs.errors import ControllerError
from workers.jobs.files import tail
from workers.jobs.lock import ControllerRecord, is_held, read_record, sole_spawner
from workers.jobs.process import ProcessId, end_processes
from workers.jobs.worker import worker_of

RECORD_TIMEOUT_S = 30.0  # a controller that has just started has yet to say who it is; a busy machine takes seconds
END_TIMEOUT_S = 150.0  # a worker's grace, and what it takes to give one up
POLL_S = 0.02


def shut_down(paths: HomePaths) -> list[str]:
    """End a store's controller and everything it started; say what was ended, a line each, none where nothing ran.

    Workers save their state first, and their runs go back to the queue. After a controller that died, the same is done
    with what it left behind. A controller that is being started is waited for, and a submission waits for the end.

    Raises:
        ControllerError: the controller is on another machine, or does not end.
    """
    if not paths.root.is_dir():
        return []
    with sole_spawner(paths):
        return _shut_down(paths)


def _shut_down(paths: HomePaths) -> list[str]:
    record = read_record(paths)
    working = _running(paths)
    lines: list[str] = []
    if is_held(paths.controller_lock):
        record = _end_controller(paths)
        lines.append(f"ended the controller (process {record.pid}, executor {record.executor})")
    if not is_held(paths.controller_lock) and (_running(paths) or _left_cluster(paths)):
        _end_remains(paths)
    if record is not None and record.cluster is not None:
        lines.append(f"ended its Ray head ({record.cluster['address']})")
    ended = [run_id for run_id in working if run_id not in _running(paths)]
    lines += [f"stopped run {run_id}; it is {_status(paths, run_id)}" for run_id in ended]
    return lines


def end_workers(paths: HomePaths, *, grace_s: float) -> list[ProcessId]:
    """End the workers of running attempts on this machine: they save their state. Return those that still live."""
    workers: list[psutil.Process] = []
    for run_id, number in _running(paths).items():
        identity = worker_of(paths.attempt(run_id, number).directory)
        process = None if identity is None else identity.process()
        if process is not None:
            workers.append(process)
    return end_processes(workers, grace_s=grace_s)


def _end_controller(paths: HomePaths) -> ControllerRecord:
    """Ask the controller that holds the store to end, and wait until it has."""
    record, controller = _identify(paths)
    controller.send(signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    while controller.alive():
        if time.monotonic() > deadline:
            raise ControllerError(
                f"the controller (process {record.pid}) did not end within {END_TIMEOUT_S:.0f} s of SIGTERM. The end of "
                f"its log, {paths.controller_log}:\n{tail(paths.controller_log)}"
            )
        time.sleep(POLL_S)
    forget_ended()
    return record


def _identify(paths: HomePaths) -> tuple[ControllerRecord, ProcessId]:
    """Return what the controller that holds the store says of itself, and its process."""
    deadline = time.monotonic() + RECORD_TIMEOUT_S
    while True:
        record = read_record(paths)
        if record is not None and not record.here:
            raise ControllerError(
                f"the controller of {paths.root} is process {record.pid} on {record.host}. Run `mambalab down` there."
            )
        if record is not None:
            controller = ProcessId(record.pid, record.created)
            if controller.alive() or not is_held(paths.controller_lock):
                return record, controller
        if time.monotonic() > deadline:
            raise ControllerError(
                f"a process holds {paths.controller_lock} and does not say in {paths.controller_json.name} who it is. "
                f"The end of its log, {paths.controller_log}:\n{tail(paths.controller_log)}"
            )
        time.sleep(POLL_S)


def _end_remains(paths: HomePaths) -> None:
    """End what a dead controller left: another one takes over its attempts and does nothing but stop them."""
    record = read_record(paths)
    executor = "subprocess" if record is None or record.executor == "inline" else record.executor
    options = SubmitOptions(command="", executor=executor, address=(record.address or None) if record else None)
    ending = spawn_controller(paths, [*daemon_command(paths, options), "--end"])
    try:
        code = ending.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        raise ControllerError(
            f"what a dead controller left could not be ended (exit code {code}). The end of the log, "
            f"{paths.controller_log}:\n{tail(paths.controller_log)}"
        )


def _left_cluster(paths: HomePaths) -> bool:
    record = read_record(paths)
    return record is not None and record.cluster is not None


def _running(paths: HomePaths) -> dict[str, int]:
    """Return the runs at work and the numbers of their attempts."""
    try:
        with Reader(paths) as reader:
            return {run.id: run.attempt for run in reader.runs(statuses=["running"], include_archived=True)}
    except StoreMissing:
        return {}


def _status(paths: HomePaths, run_id: str) -> str:
    with Reader(paths) as reader:
        return reader.run(run_id).status
