"""The controller as a process of its own: `python -m workers.jobs.daemon HOME --executor ray|subprocess`.

It holds the store's lock for life, says in controller.json who and what it is, and outlives the terminal that started
it. SIGTERM ends it cleanly: workers save their state, runs go back to the queue, and the Ray head that it started ends.
What takes time to import comes after the lock, since `submit` waits for that.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from storage.errors import StorageError
from storage.home import HomePaths
from workers.jobs.attempt import ENSEMBLE, TRIAL
from workers.jobs.detach import EXIT_TAKEN, SubmitOptions, daemon_command, spawn_controller
from workers.jobs.errors import ClusterError, JobError, StoreRemovedError
from workers.jobs.lock import ControllerLock
from workers.jobs.settings import GRACE_S, IDLE_S

log = logging.getLogger("mambalab.controller")

MAX_RESTARTS = 5  # of the process, after its own cluster was lost


def main(arguments: list[str] | None = None) -> int:
    """Be a store's controller until there is nothing to do, and return the exit code."""
    parsed = _parse(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    paths = HomePaths(Path(parsed.home))
    lock = ControllerLock(paths.controller_lock, parsed.lock_descriptor)
    if not lock.acquire():
        log.info("another controller holds %s", paths.controller_lock)
        return EXIT_TAKEN
    return _serve(paths, lock, parsed)


def _serve(paths: HomePaths, lock: ControllerLock, parsed: argparse.Namespace) -> int:
    from workers.jobs.controller import Ended
    from workers.jobs.service import Service

    options = SubmitOptions(
        command="",
        executor=parsed.executor,
        address=parsed.address,
        cpus=parsed.cpus,
        trial=parsed.trial,
        ensemble=parsed.ensemble,
        idle_s=parsed.idle_s,
        grace_s=parsed.grace_s,
    )
    service = Service(paths, options, only_end=parsed.end)
    try:
        ended = service.run()
    except ClusterError as error:
        if service.record.cluster is None or parsed.restarts >= MAX_RESTARTS:
            log.exception("the controller ends")
            return 1
        log.warning("%s; its runs go on with a new one", error)
        service.abandon_cluster()
        _start_over(paths, options, lock, parsed.restarts + 1)
    except StoreRemovedError:
        log.exception("the controller ends, and with it everything that it started")
        service.end_cluster()
        return 1
    except (JobError, StorageError):
        log.exception("the controller ends")
        return 1
    paths.controller_json.unlink(missing_ok=True)
    lock.release()
    if ended is Ended.IDLE and service.work_waits():
        spawn_controller(paths, daemon_command(paths, options))  # queued while this one ended and held the lock
    return 0


def _start_over(paths: HomePaths, options: SubmitOptions, lock: ControllerLock, restarts: int) -> NoReturn:
    """Become a new controller with the same lock: Ray's client cannot be trusted after its cluster is gone."""
    os.set_inheritable(lock.descriptor, True)
    command = daemon_command(paths, options)
    command += ["--lock-descriptor", str(lock.descriptor), "--restarts", str(restarts)]
    logging.shutdown()
    os.execv(sys.executable, command)  # noqa: S606 - the same program again, from a list that this program built


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.jobs.daemon", description=__doc__)
    parser.add_argument("home", help="the store's folder")
    parser.add_argument("--executor", choices=("ray", "subprocess"), default="ray")
    parser.add_argument("--address", help="HOST:PORT of a Ray head to join; by default a head of its own is started")
    parser.add_argument("--cpus", type=float, help="CPUs of this machine to use; all by default")
    parser.add_argument("--idle-s", type=float, default=IDLE_S)
    parser.add_argument("--grace-s", type=float, default=GRACE_S)
    parser.add_argument("--trial", default=TRIAL, help="what attempts run, module:name")
    parser.add_argument("--ensemble", default=ENSEMBLE, help="what attempts of an ensemble run, module:name")
    parser.add_argument("--end", action="store_true", help="end what a dead controller left, and run nothing")
    parser.add_argument("--lock-descriptor", type=int, help=argparse.SUPPRESS)  # from ourselves, when we start over
    parser.add_argument("--restarts", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
